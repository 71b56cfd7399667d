"""Feynman-Kac steering (arXiv 2501.06848): particles of a prompt are weighed on the way and resampled, best ones going on.

The released code with the paper's settings ends with one first noise of four in nine runs of ten. The defaults here keep more: systematic
resampling, only where the effective size falls below half, weights carried in between, increments of the reward instead of a maximum with a
floor, and a lambda that follows the scale of the reward. Three looks, not four: on small models a look, which decodes and scores, costs as
much as several forwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from tropism.steering import intermediate, smc
from tropism.steering.base import Method
from tropism.steering.best_of_n import at_least_one
from tropism.steering.intermediate import Intermediate
from tropism.steering.potentials import POTENTIALS
from tropism.steering.resampling import RESAMPLERS
from tropism.steering.schedule import Schedule
from tropism.steering.steered import SELECTORS, Steered, known
from tropism.steering.strength import Strength
from tropism.steering.task import Task


@dataclass
class Fk(Method):
    """particles: K. lam: ``lambda`` in a recipe, a number or ``{ess: 0.1}``. rising: gamma of tempering, 0 is none. schedule: what differs
    from ``{start: 0.25, end: 0.75, every: 0.25, ess: 0.5}``. intermediate: ``predicted``, ``{samples: 4}`` or ``{lookahead: 3}``.
    """

    particles: int = 4
    lam: float | Mapping[str, float] = field(default_factory=lambda: {"ess": 0.1})
    potential: str = "difference"
    resampler: str = "systematic"
    schedule: Mapping[str, float] = field(default_factory=dict)
    intermediate: str | Mapping[str, int] | Intermediate = "predicted"
    rising: float = 0.0
    select: str = "best"
    needs: ClassVar[frozenset[str]] = frozenset({"noise"})
    usual: ClassVar[Schedule] = Schedule()
    guided: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least_one(self.particles)
        known("potential", self.potential, POTENTIALS)
        known("resampler", self.resampler, RESAMPLERS)
        known("select", self.select, SELECTORS)
        strength, schedule = Strength.read(self.lam, self.rising), Schedule.read(self.schedule, self.usual)
        if strength.ess is not None and strength.ess >= schedule.ess:
            raise ValueError(
                f"lambda: ess {strength.ess} is not below schedule.ess {schedule.ess}, so the effective size would not fall far enough for "
                "anything to be resampled"
            )
        self.how = smc.Smc(
            potential=POTENTIALS[self.potential],
            strength=strength,
            schedule=schedule,
            resampler=RESAMPLERS[self.resampler],
            intermediate=intermediate.read(self.intermediate),
            select=SELECTORS[self.select],
            guided=self.guided,
        )

    def run(self, task: Task) -> Steered:
        return smc.run(task, self.how)


@dataclass
class FkPaper(Fk):
    """The paper's settings for text to image: max, lambda 10, four particles, multinomial at 20, 40, 60 and 80 of 100 steps. The target is
    the paper's; the defects of its released code (a floor under the maximum, rewards one step stale) are not repeated."""

    lam: float | Mapping[str, float] = 10.0
    potential: str = "max"
    resampler: str = "multinomial"
    usual: ClassVar[Schedule] = Schedule(0.2, 0.8, 0.2, ess=1.0)
