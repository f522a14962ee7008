"""Transformer models in Flax NNX, read from Hugging Face folders."""
