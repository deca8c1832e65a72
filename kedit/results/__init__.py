"""What is kept of a run: tables, files, cached results, W&B."""
