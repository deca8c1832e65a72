"""How the shipped inpainting pipeline of the picture world was trained: examples, models, evaluation."""
