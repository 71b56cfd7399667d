"""Alignment algorithms, one file each, its paper and formula in the docstring."""
