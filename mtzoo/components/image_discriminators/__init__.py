"""Built-in image discriminators, one a file; a file's name is its registered name."""
