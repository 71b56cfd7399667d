"""Rewards of clips."""
