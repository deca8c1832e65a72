"""The jobs a user asks for, each one function that returns a result: no configuration, no folders, no terminal."""
