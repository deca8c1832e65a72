"""Ways of painting a concept out, side by side: pictures, agreement, what the edit does in the end."""
