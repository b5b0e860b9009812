"""Blocks and kernels that know no registry."""
