"""Twisted sequential Monte Carlo: proposals that follow the gradient of a differentiable reward, with their exact density ratio.

TDS (arXiv 2306.17775, algorithm 1): the twist is exp(lambda r(x0 predicted from x)), the proposal N(mean + variance gradient, variance),
and a weight gets log p / tau at every step, also where nothing is resampled. DAS (arXiv 2501.05803): the same, tempered, resampled by SSP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tropism.steering.fk import Fk
from tropism.steering.schedule import EVERY_STEP, Schedule


@dataclass
class Twisted(Fk):
    """Arguments as of ``fk``. A step is guided where the schedule looks at rewards: at every one unless told otherwise. lam: of the order
    of 1 / (the reward's spread); where it is too large, proposals overshoot, and the effective size says so."""

    lam: float | Mapping[str, float] = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"noise", "gradient", "density"})
    usual: ClassVar[Schedule] = EVERY_STEP
    guided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.intermediate != "predicted":
            raise ValueError(f"intermediate: {self.intermediate!r}; the gradient is that of the predicted x0, and so must be the reward")


@dataclass
class Das(Twisted):
    """rising: gamma, 0.008 for 100 steps and 0.1 for 8. lam: 1 / kl_coeff of the paper."""

    rising: float = 0.008
    resampler: str = "ssp"
