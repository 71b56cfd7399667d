"""Conditions, encoded once for each distinct item: text encoders are slow and prompts come again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch

from tropism.policy import Policy
from tropism.types import Item, Tree, content, tree_cat, tree_map


class Conditions:
    """Encoded items by their content, in the memory of the CPU; given out on the device of the policy's network.

    New items are encoded together, ``batch`` at a time. At most ``limit`` bytes are kept between calls (2 GiB: 18,000 prompts of a CLIP
    text encoder in half precision, or 256 of T5-XXL in full); beyond it the items that were asked for longest ago are forgotten.
    """

    def __init__(self, policy: Policy, batch: int = 64, limit: int = 2 * 1024**3) -> None:
        self.policy, self.batch, self.limit = policy, batch, limit
        self.rows: OrderedDict[str, Tree] = OrderedDict()  # tensors [1, ...], the item asked for last at the end
        self.size = 0  # bytes in ``rows``

    def encode(self, items: Sequence[Item]) -> Tree:
        """The conditions [B, ...] of ``items``. Raises PolicyError where conditions of different items do not fit together."""
        keys = [content(item) for item in items]
        fresh = {key: item for key, item in zip(keys, items, strict=True) if key not in self.rows}
        new = list(fresh.items())
        for begin in range(0, len(new), self.batch):
            part = new[begin : begin + self.batch]
            encoded = self.policy.encode([item for _, item in part])
            for row, (key, _) in enumerate(part):
                # Cloned: a view would keep the whole batch alive after its other rows are forgotten.
                self.rows[key] = tree_map(lambda t, row=row: t[row : row + 1].detach().cpu().clone(), encoded)  # type: ignore[misc]
                self.size += _bytes(self.rows[key])
        device = next(self.policy.trainable().parameters()).device
        found = tree_map(lambda t: t.to(device), tree_cat([self.rows[key] for key in keys]))
        self._forget(keys)
        return found

    def _forget(self, used: Sequence[str]) -> None:
        """Mark ``used`` as asked for last, and go back below the limit."""
        for key in used:
            self.rows.move_to_end(key)
        while self.size > self.limit:
            self.size -= _bytes(self.rows.popitem(last=False)[1])


def _bytes(tree: Tree) -> int:
    return sum(tensor.nbytes for tensor in _leaves(tree))


def _leaves(tree: Tree) -> Iterator[torch.Tensor]:
    for value in tree.values():
        yield from _leaves(value) if isinstance(value, dict) else (value,)
