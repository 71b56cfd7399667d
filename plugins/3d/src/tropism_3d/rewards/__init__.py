"""Rewards for 3D shapes: what a physics simulator says of them, and a cheap proxy of it."""
