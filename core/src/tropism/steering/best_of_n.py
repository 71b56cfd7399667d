"""Best of N: the baseline that every other method has to beat, at equal forwards and at equal seconds.

With ``lambda`` the samples are also weighted by exp(lambda r): importance sampling from the policy, exact as N grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tropism.steering import smc
from tropism.steering.base import Method
from tropism.steering.intermediate import Predicted
from tropism.steering.potentials import difference
from tropism.steering.resampling import systematic
from tropism.steering.steered import SELECTORS, Steered, known
from tropism.steering.strength import Strength
from tropism.steering.task import Task


@dataclass
class BestOfN(Method):
    """particles: N. lam: ``lambda`` in a recipe. select: ``best``, ``all`` or ``one`` by weight. Any sampler will do."""

    particles: int = 4
    lam: float | Mapping[str, float] = 0.0
    select: str = "best"

    def __post_init__(self) -> None:
        at_least_one(self.particles)
        known("select", self.select, SELECTORS)
        self.how = smc.Smc(difference, Strength.read(self.lam), None, systematic, Predicted(), SELECTORS[self.select])

    def run(self, task: Task) -> Steered:
        return smc.run(task, self.how)


def at_least_one(particles: int) -> None:
    if not isinstance(particles, int) or not 1 <= particles <= 1_000_000:
        raise ValueError(f"particles: {particles!r}; expected 1 to 1000000")
