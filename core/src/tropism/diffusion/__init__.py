"""Noise levels, transition kernels and rollouts: the mathematics, without any model."""
