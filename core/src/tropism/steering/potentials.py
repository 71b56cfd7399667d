"""Potentials: how rewards on the way become weights.

A potential keeps a statistic s of the rewards of a lineage; its level at a point is V = lambda s, and what a point multiplies the weight by
is exp(V - V before). The finished sample closes the product: V = lambda r(x0). So the product over a lineage is exp(lambda r(x0)) for every
potential (Feynman-Kac steering, arXiv 2501.06848, section 3), the target is the same, and only the variance differs. The released code
multiplies by exp(lambda s) itself at every point and divides all of it out at the end: the same product, with ten times the deviation of
log Z. That form of ``current`` has the increments of ``sum`` here, so both names stand for one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Statistic = Callable[[torch.Tensor | None, torch.Tensor], torch.Tensor]


def difference(before: torch.Tensor | None, reward: torch.Tensor) -> torch.Tensor:
    """The reward now: what was given for earlier predictions is taken back."""
    return reward


def maximum(before: torch.Tensor | None, reward: torch.Tensor) -> torch.Tensor:
    """The highest reward of the lineage so far; it has no floor."""
    return reward if before is None else torch.maximum(before, reward)


def total(before: torch.Tensor | None, reward: torch.Tensor) -> torch.Tensor:
    """The sum of the lineage's rewards so far."""
    return reward if before is None else before + reward


POTENTIALS: dict[str, Statistic] = {"difference": difference, "max": maximum, "sum": total, "current": total}
