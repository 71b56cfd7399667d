"""What stability must not be bought with: likeness to the object that was asked for, and empty space.

To be watched (``evaluate.rewards``), or as a guard: a run warns, or stops, when the trained reward rises while these fall.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tropism_3d import shapes
from tropism_3d.geometry import TAU, Cloud, compare
from tropism_3d.reference import clouds


class Likeness:
    """F-score of each sample's surface to the real object's after alignment, [B] in [0, 1]; 0 where there is no surface.

    occupancy: see :mod:`tropism_3d.shapes`. object, view: fields of the items of ``3d/furniture``. tau: in units of the longest side.
    """

    def __init__(self, tau: float = TAU) -> None:
        self.tau = tau

    def __call__(self, occupancy: torch.Tensor, object: Sequence[str], view: Sequence[int]) -> torch.Tensor:
        made = Cloud.of(shapes.from_occupancy(occupancy))
        return compare(made, clouds(list(object), list(view))[0], self.tau)[1]


def emptiness(occupancy: torch.Tensor) -> torch.Tensor:
    """The share of the cube that is left empty, [B]: falls when a model learns to fill it."""
    return 1 - (occupancy > shapes.SURFACE).flatten(1).float().mean(1)
