"""Built-in video discriminators, one a file; a file's name is its registered name."""
