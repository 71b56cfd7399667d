"""Prompts and, later, preferences and labels."""
