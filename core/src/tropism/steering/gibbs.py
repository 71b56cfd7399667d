"""Particle Gibbs: conditional sequential Monte Carlo, again and again, with one path kept (PG-DLM, arXiv 2507.08390; Andrieu, Doucet and
Holenstein, "Particle Markov chain Monte Carlo methods", 2010).

A sweep runs K particles of which one is the kept path, and draws the next kept path by weight. That leaves the target p(x0) exp(lambda r)
as it is, for any K above 1: so sweeps with few particles come as near to it as is wanted, where one run with few particles does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from tropism.steering.base import Method
from tropism.steering.intermediate import read
from tropism.steering.lineage import Lineage
from tropism.steering.potentials import POTENTIALS
from tropism.steering.resampling import multinomial
from tropism.steering.schedule import Schedule
from tropism.steering.search import put, rows_of
from tropism.steering.smc import ended, useful
from tropism.steering.steered import SELECTORS, Steered, known, one
from tropism.steering.strength import Strength
from tropism.steering.task import Task, flat, gather
from tropism.types import Tree


def conditional(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Multinomial resampling in which particle 0 goes on from itself: the law that leaves the target as it is."""
    ancestors = multinomial(weights, u)
    return torch.cat([torch.zeros_like(ancestors[:, :1]), ancestors[:, 1:]], 1)


@dataclass
class Gibbs(Method):
    """particles: K, 2 or more. sweeps: how many, the first without a kept path. lam: ``lambda`` in a recipe, a number, as the target must
    not change from sweep to sweep. schedule, potential, intermediate: as of ``fk``. select: ``one``, the kept path, is a draw from the
    target once sweeps have forgotten the first; particle 0 is the path of the sweep before.
    """

    particles: int = 4
    sweeps: int = 4
    lam: Any = 1.0
    potential: str = "difference"
    schedule: Mapping[str, float] = field(default_factory=dict)
    intermediate: Any = "predicted"
    select: str = "one"
    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def __post_init__(self) -> None:
        if not 2 <= self.particles <= 1_000_000:
            raise ValueError(f"particles: {self.particles}; expected 2 to 1000000: with the kept path alone nothing would ever change")
        if not 1 <= self.sweeps <= 100_000:
            raise ValueError(f"sweeps: {self.sweeps}; expected 1 to 100000")
        known("potential", self.potential, POTENTIALS)
        known("select", self.select, SELECTORS)
        self.strength = Strength.read(self.lam)
        if self.strength.number is None:
            raise ValueError(f"lambda: {self.lam!r}; expected a number: by effective size every sweep would have another target")
        self.when, self.value = Schedule.read(self.schedule, Schedule()), read(self.intermediate)

    @torch.no_grad()
    def run(self, task: Task) -> Steered:
        before, unscored, log_z = (task.process.forwards, task.scorer.calls), 0, torch.empty(0)
        kept: list[Tree] = []
        for sweep in range(self.sweeps):
            lineage = Lineage(task, POTENTIALS[self.potential], self.strength, conditional if kept else multinomial)
            states, ancestors = self._sweep(task, lineage, kept)
            steered = ended(task, lineage, states[-1], before, one)
            log_z, unscored = log_z if kept else steered.log_z, unscored + steered.unscored  # with a kept path it would be biased
            if sweep + 1 < self.sweeps:
                kept = traced(states, ancestors, steered.chosen, task.particles)
        if self.select != "one":
            steered.chosen = SELECTORS[self.select](steered, task.chance)
        return replace(steered, log_z=log_z, unscored=unscored)

    def _sweep(self, task: Task, lineage: Lineage, kept: list[Tree]) -> tuple[list[Tree], dict[int, torch.Tensor]]:
        """The states at every point, as they came there, and the ancestors where particles were resampled."""
        points, places, ancestors = useful(task, self.when), torch.arange(task.prompts) * task.particles, dict[int, torch.Tensor]()
        state = task.start()
        states = [put(state, places, kept[0]) if kept else state]
        for index in range(task.process.steps):
            state = task.look(states[-1], index)
            if index in points:
                lam = lineage.lam.repeat_interleave(task.particles)
                found = lineage.arrived(index, self.value(task, state, index, lam), self.when.ess)
                if found is not None:
                    ancestors[index], state = found, gather(state, flat(found))
            state, _ = task.move(state, index)
            states.append(put(state, places, kept[index + 1]) if kept else state)
        return states, ancestors


def traced(states: list[Tree], ancestors: dict[int, torch.Tensor], chosen: torch.Tensor, count: int) -> list[Tree]:
    """The path [P rows at every point] that led to particle ``chosen`` [P, 1] of each prompt."""
    path = [gather(states[-1], rows_of(chosen, count))]
    for index in range(len(states) - 2, -1, -1):
        chosen = ancestors[index].gather(1, chosen) if index in ancestors else chosen
        path.insert(0, gather(states[index], rows_of(chosen, count)))
    return path
