"""Edits of neurons as forward hooks, alive only inside `with`; and in the forms that other programs load."""
