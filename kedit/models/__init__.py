"""Who speaks: multimodal language models behind one small protocol."""
