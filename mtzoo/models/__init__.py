"""Assemblies of components; one model a file."""
