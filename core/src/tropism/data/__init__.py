"""Prompts, preferences and labels: read from files as they come, and votes written to disk."""
