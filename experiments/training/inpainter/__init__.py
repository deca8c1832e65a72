"""How the shipped inpainting pipeline of the picture world was trained: examples, autoencoder, denoiser, exam."""
