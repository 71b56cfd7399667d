"""Policies: generative models as alignment sees them."""
