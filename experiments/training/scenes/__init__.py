"""How the shipped models of the picture world were trained: tower, rows, language model, loop."""
