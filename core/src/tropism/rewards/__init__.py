"""Rewards: how scores are asked for, checked and combined."""
