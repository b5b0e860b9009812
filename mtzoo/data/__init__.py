"""Clip store, datasets and synthetic worlds."""
