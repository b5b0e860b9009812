"""Built-in content encoders, one a file; a file's name is its registered name."""
