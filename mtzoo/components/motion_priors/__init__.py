"""Built-in motion priors, one a file; a file's name is its registered name."""
