"""How many samples stand, told at three angles: DSO's 20 degrees is a convention, and 5 tells apart what merely leans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from tropism.evaluate import Estimate
from tropism.types import Rollout
from tropism_3d.rewards.stability import Stability

DEGREES = (5, 10, 20)


class Stable:
    """``3d/stable-5``, ``-10``, ``-20``: shares that turned by less; ``3d/tilt``: mean degrees, 180 for what could not be simulated.

    preset, settings, threads: as of the reward ``3d/stability``; where they are the same, nothing is simulated again.
    """

    def __init__(self, preset: str = "robust", settings: Mapping[str, Any] | None = None, threads: int | None = None) -> None:
        self.simulator = Stability(preset, settings, threads)

    def __call__(self, samples: Rollout, base: Rollout) -> Iterator[tuple[str, torch.Tensor | Estimate]]:
        found = self.simulator.outcomes(samples.media["occupancy"])
        for degrees in DEGREES:
            yield f"3d/stable-{degrees}", torch.tensor([one.stands(degrees) for one in found])
        yield "3d/tilt", torch.tensor([one.angle for one in found])
