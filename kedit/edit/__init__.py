"""Edits of neurons as forward hooks, alive only inside `with`."""
