"""A corpus or a model to begin with: got, converted, and checked before it is trusted."""
