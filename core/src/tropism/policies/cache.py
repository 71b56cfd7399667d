"""Conditions, encoded once for each distinct item: text encoders are slow and prompts come again and again."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from tropism.policy import Policy
from tropism.types import Item, Tree, tree_map


class Conditions:
    """Encoded items by their content. New ones are encoded together, ``batch`` at a time."""

    def __init__(self, policy: Policy, batch: int = 64) -> None:
        self.policy, self.batch = policy, batch
        self.rows: dict[str, int] = {}
        self.stored: list[Tree] = []

    def encode(self, items: Sequence[Item]) -> Tree:
        """The conditions [B, ...] of ``items``."""
        keys = [json.dumps(item, sort_keys=True, default=str) for item in items]
        fresh = {key: item for key, item in zip(keys, items, strict=True) if key not in self.rows}
        new = list(fresh.items())
        for begin in range(0, len(new), self.batch):
            part = new[begin : begin + self.batch]
            encoded = self.policy.encode([item for _, item in part])
            for row, (key, _) in enumerate(part):
                self.rows[key] = len(self.stored)
                self.stored.append(tree_map(lambda t, row=row: t[row], encoded))  # type: ignore[misc]
        return _stack([self.stored[self.rows[key]] for key in keys])


def _stack(trees: list[Tree]) -> Tree:
    first = trees[0]
    return {key: _stack([t[key] for t in trees]) if isinstance(first[key], dict) else torch.stack([t[key] for t in trees]) for key in first}
