"""From a model and a corpus to pooled hidden states, computed and stored."""
