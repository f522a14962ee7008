"""Functions compiled part by part, so that what they call many times is compiled once."""
