"""Evaluators of clips."""
