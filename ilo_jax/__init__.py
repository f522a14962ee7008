"""Measure whether the languages inside a model share one representation space."""
