"""Evaluators of pictures; both look through the scorer that no recipe trains on."""
