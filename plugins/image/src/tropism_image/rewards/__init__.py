"""Rewards for pictures: one file a reward; ``clip``, ``preprocess`` and ``weights`` hold what they share."""
