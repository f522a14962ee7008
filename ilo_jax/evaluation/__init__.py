"""How well a model knows each language."""
