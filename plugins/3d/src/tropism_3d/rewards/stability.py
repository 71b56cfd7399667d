"""The simulator as a reward: put on the floor and nudged, does the object stand?

Li et al. 2025, "DSO: Aligning 3D Generators with Simulation Feedback for Physical Soundness", arXiv:2503.22677.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tropism.errors import RewardError
from tropism_3d.physics.simulate import Outcome
from tropism_3d.physics.sweep import Sweep
from tropism_3d.rewards.outcomes import chosen, simulated

SOFT = 1.0  # degrees: a standing body sinks and leans this much, which tells nothing; siblings that stand should be equal
OVER = 45.0  # degrees: tilted by more, it counts as lying
WORST = -1.0


def grade(outcome: Outcome) -> float:
    """1 for an object that stands, down to 0 for one that lies, evenly in its angle; -1 where there was no object to simulate."""
    return WORST if outcome.failed else 1 - min(max((outcome.angle - SOFT) / (OVER - SOFT), 0.0), 1.0)


class Stability:
    """How upright each object is after the simulation, [B] float32 in [0, 1], and -1 where there is nothing to simulate: :func:`grade`.

    occupancy: see :mod:`tropism_3d.shapes`. preset: ``robust`` or ``dso``. settings: changes to it, by the names of
    :class:`tropism_3d.physics.settings.Settings`. threads: processors by default; scores do not depend on it.
    """

    differentiable = False

    def __init__(self, preset: str = "robust", settings: Mapping[str, Any] | None = None, threads: int | None = None) -> None:
        self.settings, self.threads = chosen(preset, settings), threads

    def __call__(self, occupancy: torch.Tensor) -> torch.Tensor:
        return torch.tensor([grade(one) for one in self.outcomes(occupancy)])

    def outcomes(self, occupancy: torch.Tensor) -> list[Outcome]:
        """All that the simulation says of each sample."""
        return [one for (one,) in simulated(occupancy, [self.settings], self.threads)]


class Stands(Stability):
    """The binary label of DSO: 1 where the object turned by less than ``degrees``, 0 where it did not or there is none, [B] float32."""

    unit = "share"

    def __init__(
        self, degrees: float = 20.0, preset: str = "robust", settings: Mapping[str, Any] | None = None, threads: int | None = None
    ) -> None:
        super().__init__(preset, settings, threads)
        if not 0 < degrees <= 180:
            raise RewardError(f"degrees {degrees} is outside 0 to 180; the paper uses 20")
        self.degrees = degrees

    def __call__(self, occupancy: torch.Tensor) -> torch.Tensor:
        return torch.tensor([float(one.stands(self.degrees)) for one in self.outcomes(occupancy)])


class Simulated(Stability):
    """1 where there was an object and a usable simulation of it, 0 where not, [B] float32: what to watch beside the reward.

    Named under ``evaluate.rewards`` its mean is the share of samples that could be simulated; it costs no simulation of its own.
    """

    unit = "share"

    def __call__(self, occupancy: torch.Tensor) -> torch.Tensor:
        return torch.tensor([float(not one.failed) for one in self.outcomes(occupancy)])


class Robustness:
    """The share of a sweep's settings in which the object turns by less than ``degrees``, [B] float32 in [0, 1].

    directions, speeds, frictions, slopes: see :class:`tropism_3d.physics.sweep.Sweep`; 16 settings by default.
    """

    differentiable = False
    unit = "share"

    def __init__(
        self,
        degrees: float = 20.0,
        directions: int = 4,
        speeds: Sequence[float] = (0.05,),
        frictions: Sequence[float] = (0.4, 1.0),
        slopes: Sequence[float] = (0.0, 5.0),
        threads: int | None = None,
    ) -> None:
        sweep = Sweep(directions, tuple(speeds), tuple(frictions), tuple(slopes))
        self.settings, self.degrees, self.threads = sweep.settings(chosen("robust", None)), degrees, threads

    def __call__(self, occupancy: torch.Tensor) -> torch.Tensor:
        found = simulated(occupancy, self.settings, self.threads)
        return torch.tensor([sum(one.stands(self.degrees) for one in sample) / len(sample) for sample in found])
