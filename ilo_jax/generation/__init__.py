"""Text from causal language models: sampled, edited and read while it is said."""
