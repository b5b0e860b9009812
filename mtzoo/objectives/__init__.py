"""Objectives: equations, one function each, and their weighted sum per phase."""
