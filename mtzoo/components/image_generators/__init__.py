"""Built-in image generators, one a file; a file's name is its registered name."""
