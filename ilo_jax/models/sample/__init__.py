"""The sample model: multilingual-e5-small, out of the package that ships it."""
