"""What a tiny model is taught and how."""
