"""GILL, which reads and draws pictures, from its original files: an OPT, a CLIP, and what was trained between them."""
