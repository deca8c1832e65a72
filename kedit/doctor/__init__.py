"""Checks of a model on which everything else rests, each a measured number with its bound."""
