"""Measures on arrays of hidden states; each takes arrays and returns a NamedTuple."""
