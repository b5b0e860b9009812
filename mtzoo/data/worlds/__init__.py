"""Synthetic worlds with known content and motion factors."""
