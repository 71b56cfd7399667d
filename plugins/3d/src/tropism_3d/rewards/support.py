"""The support margin as a cheap second measure; never the reward of record, since a smooth bottom has hardly any lowest layer."""

from __future__ import annotations

import numpy as np
import torch

from tropism_3d.physics.simulate import REFUSALS
from tropism_3d.physics.solid import Solid, solid
from tropism_3d.physics.support import margin_angle
from tropism_3d.rewards.outcomes import each
from tropism_3d.shapes import surface


class SupportMargin:
    """Degrees by which each object can be tilted before its centre of mass leaves its footprint, [B] float32 in [-90, 90].

    -90 where there is no object. See :func:`tropism_3d.physics.support.margin_angle`.
    """

    differentiable = False
    unit = "degrees"

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads

    def __call__(self, occupancy: torch.Tensor) -> torch.Tensor:
        return torch.tensor(each(_margin, occupancy, self.threads))


def _margin(field: np.ndarray) -> float:
    try:
        body = solid(surface(field))
    except REFUSALS:
        return -90.0
    return margin_angle(body) if isinstance(body, Solid) else -90.0
