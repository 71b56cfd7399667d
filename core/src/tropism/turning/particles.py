"""Prompts of a run, steered: particles with noise of their own, and as many prompts at a time as there is room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from tropism import sampling
from tropism.diffusion.noise import Draw, sample_seed
from tropism.diffusion.schedules import Schedule
from tropism.errors import SteeringError
from tropism.policy import Policy
from tropism.scale.engine import Engine
from tropism.steering.base import Method, steer
from tropism.steering.steered import Steered
from tropism.types import Condition, Item, Level, Rollout, Tree

if TYPE_CHECKING:
    from tropism.loop import Run

STEERING_SEED = 3 * 2**32  # a stream of its own, apart from training, evaluations and plain samples
MOST = 2**20  # numbers that a prompt has for its particles, so that their noise does not depend on how many there are


def condition(items: Sequence[Item], seed: int, particles: int, first: int = 0) -> Condition:
    """Conditions, not yet encoded, of ``particles`` for each item, prompt by prompt. first: the number of the first of the items.

    Particle k of prompt p has the same noise whatever the method, the number of particles and the other prompts.
    """
    places = [(first + prompt, number) for prompt in range(len(items)) for number in range(particles)]
    seeds = torch.tensor([sample_seed(STEERING_SEED + seed, prompt * MOST + number) for prompt, number in places])
    repeated = [item for item in items for _ in range(particles)]
    return Condition(items=repeated, encoded={}, seed=seeds, group=torch.tensor([prompt for prompt, _ in places]))


def steered(job: Run, items: Sequence[Item], method: Method, seed: int) -> Iterator[tuple[Condition, Steered]]:
    """Steer items by the recipe's rewards with the sampler and the steps of its rollouts.

    Prompts come in parts whose particles make a batch of the rollouts (one prompt at least), each with the conditions of all particles;
    the network and the rewards see a batch of rows at once. Raises SteeringError, see :func:`tropism.steering.base.steer`.
    """
    rollout = job.recipe.rollout
    room, policy = max(1, rollout.batch // method.particles), InPrecision(job.policy, job.engine)
    for begin in range(0, len(items), room):
        cond = sampling.encoded(job, condition(items[begin : begin + room], seed, method.particles, begin))
        yield cond, steer(policy, cond, job.sampler, rollout.steps, job.combined, method, chunk=rollout.batch)


def together(job: Run, cond: Condition) -> Rollout:
    """A batch of a rollout, encoded conditions, whose groups are the particles of the recipe's method; without trajectories.

    Their weights are left aside: credit compares the samples of a group by their rewards. Raises SteeringError where fewer come out.
    """
    method = job.steering
    assert method is not None
    rollout, policy = job.recipe.rollout, InPrecision(job.policy, job.engine)
    made = steer(policy, cond, job.sampler, rollout.steps, job.combined, method, chunk=rollout.decode or rollout.batch)
    if made.chosen.shape[1] != method.particles:
        name, count = type(method).__name__.lower(), made.chosen.shape[1]
        raise SteeringError(f"'{name}' gives {count} of {method.particles} particles; a rollout learns from all: take fk, svdd or bfs")
    return made.rollout(cond)


class InPrecision:
    """A policy whose network and decoder run in the precision of a run; states, rewards and weights do not."""

    def __init__(self, policy: Policy, engine: Engine) -> None:
        self.policy, self.engine, self.emits = policy, engine, policy.emits

    @property
    def schedule(self) -> Schedule:
        return self.policy.schedule

    def encode(self, items: list[Item]) -> Tree:
        return self.policy.encode(items)

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        with self.engine.precision():
            return self.policy.predict(x, level, cond)

    def noise(self, draw: Draw, level: Level, cond: Tree) -> torch.Tensor:
        return self.policy.noise(draw, level, cond)

    def decode(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        with self.engine.decoding():
            return self.policy.decode(x0)

    def trainable(self) -> torch.nn.Module:
        return self.policy.trainable()
