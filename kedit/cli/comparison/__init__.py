"""What `kedit compare` does: locating methods side by side, by what editing their neurons does."""
