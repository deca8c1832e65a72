"""Thresholds at a false-discovery rate: null distributions, p-values, and the neurons that pass."""
