"""Locating methods side by side: what editing each one's neurons does, at equal budgets, on the same samples."""
