"""The engine: sequential Monte Carlo over the steps of a process (Feynman-Kac steering, arXiv 2501.06848, algorithm 1; twisted SMC).

Point i of the schedule lies between the forward of step i and its noise: the forward gives a fresh prediction of x0, which is scored;
particles are resampled with all that the forward gave, and then move. Released code scores the prediction of the step before, which is one
step stale: the same target, and up to 2.8 times the variance of log Z (measured on the masked chain) at the same number of forwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tropism.steering.intermediate import Intermediate
from tropism.steering.lineage import Lineage
from tropism.steering.potentials import Statistic
from tropism.steering.resampling import Resampler
from tropism.steering.schedule import Schedule
from tropism.steering.steered import Selector, Steered
from tropism.steering.strength import Strength
from tropism.steering.task import Task, flat, gather
from tropism.types import Tree


@dataclass(frozen=True)
class Smc:
    """What the engine is run with. guided: proposals follow the gradient of lambda times the reward of the predicted x0, at every point."""

    potential: Statistic
    strength: Strength
    schedule: Schedule | None  # None: nothing is looked at before the end
    resampler: Resampler
    intermediate: Intermediate
    select: Selector
    guided: bool = False


@torch.no_grad()
def run(task: Task, how: Smc) -> Steered:
    """Steer one task. Raises SteeringError where all particles of a prompt are without weight."""
    steps, before = task.process.steps, (task.process.forwards, task.scorer.calls)
    lineage = Lineage(task, how.potential, how.strength, how.resampler)
    points = useful(task, how.schedule)
    state = task.start()
    for index in range(steps):
        pull = None
        if how.schedule is None or index not in points:
            state = task.look(state, index)
        else:
            state, rewards, pull = _seen(task, how, lineage, state, index)
            ancestors = lineage.arrived(index, rewards, how.schedule.ess)
            if ancestors is not None:
                state = gather(state, flat(ancestors))
                pull = None if pull is None else pull[flat(ancestors).to(pull.device, non_blocking=True)]
        state, ratio = task.move(state, index, pull)
        lineage.corrected(ratio)
    return ended(task, lineage, state, before, how.select)


def ended(task: Task, lineage: Lineage, state: Tree, before: tuple[int, int], select: Selector) -> Steered:
    """What came out, from finished states. before: forwards and rewards that there had been when it began."""
    judged = task.finished(state)
    shape = task.prompts, task.particles
    steered = Steered(
        x0=state["x"],
        media=judged.media,
        reward=lineage.closed(task.process.steps, judged.reward),
        scores={name: values.reshape(shape) for name, values in judged.scores.items()},
        logw=lineage.logw,
        log_z=lineage.log_z,
        lam=torch.where(lineage.lam.isfinite(), lineage.lam, 0.0),
        root=lineage.root,
        points=lineage.points,
        forwards=task.process.forwards - before[0],
        calls=task.scorer.calls - before[1],
        unscored=lineage.unscored,
        chosen=lineage.still,
    )
    steered.chosen = select(steered, task.chance)
    return steered


def useful(task: Task, schedule: Schedule | None) -> set[int]:
    """The points of a schedule that have noise after them: where there is none, copies would be the same to the end."""
    if schedule is None:
        return set()
    last = max((index for index in range(task.process.steps) if task.process.noisy(index)), default=-1)
    return {point for point in schedule.points(task.process.steps) if point <= last}


def _seen(task: Task, how: Smc, lineage: Lineage, state: Tree, index: int) -> tuple[Tree, torch.Tensor, torch.Tensor | None]:
    """(state after its forward, rewards [P K], the gradient to follow or None)."""
    if not how.guided:
        state = task.look(state, index)
        lam = lineage.lam.repeat_interleave(task.particles)
        return state, how.intermediate(task, state, index, lam), None
    state, rewards, gradient = task.look_along(state, index)
    part = lineage.counting(index).repeat_interleave(task.particles)
    return state, rewards, gradient * part.to(gradient, non_blocking=True).reshape(-1, *[1] * (gradient.ndim - 1))
