"""Datasets of training pairs, one a file; a file's name is its registered name."""
