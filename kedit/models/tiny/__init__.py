"""Models of many families with a few thousand random weights: to try kedit on an architecture, not to learn from."""
