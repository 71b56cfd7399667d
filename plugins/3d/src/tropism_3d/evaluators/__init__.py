"""Evaluators of 3D shapes."""
