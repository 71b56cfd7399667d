"""What a steering method is, and how one is run on a policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from tropism.diffusion.noise import Draw, sample_seed
from tropism.diffusion.samplers import Sampler
from tropism.errors import SteeringError
from tropism.policy import Policy
from tropism.rewards.combine import Combined
from tropism.steering.denoising import Denoising, refuse_deterministic, unguidable
from tropism.steering.scorer import Rewards
from tropism.steering.steered import Steered
from tropism.steering.task import Task
from tropism.types import Condition, label

NEEDS = frozenset({"noise", "gradient", "density"})
GUESS, CHANCE = 3 * 2**32, 4 * 2**32  # streams of their own, added to seeds


class Method(ABC):
    """A way to steer: arguments as a dataclass, checked when it is made, and ``run``.

    needs: ``noise``, a sampler with noise in some step; ``gradient``, rewards that declare ``differentiable = True``; ``density``, a
    sampler whose noisy steps have one, so that proposals may differ from them.
    particles: how many first noises of a prompt it begins with.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    particles: int

    @abstractmethod
    def run(self, task: Task) -> Steered:
        """Make the samples of a task."""


def steer(
    policy: Policy, cond: Condition, sampler: Sampler, steps: int, rewards: Combined, method: Method, *, chunk: int | None = None
) -> Steered:
    """Steer a policy. cond: encoded conditions of P prompts x ``method.particles``, prompt by prompt, each with the seed of its first noise
    and its steps, as :func:`tropism.sampling.condition` makes them with ``group`` particles. chunk: rows at once on the device.

    With lambda 0 its samples are those of :func:`tropism.diffusion.rollout.collect` for the same conditions, bit for bit. Raises
    SteeringError for a sampler or a reward that the method cannot work with, and where all particles of a prompt are without weight.
    """
    count, name = method.particles, type(method).__name__
    if not len(cond) or len(cond) % count:
        raise SteeringError(f"{len(cond)} conditions are no whole number of prompts of {count} particles each")
    groups = cond.group.reshape(-1, count)
    if (groups != groups[:, :1]).any():
        raise SteeringError(
            f"conditions must come prompt by prompt, {count} particles each with one group number; found {cond.group.tolist()[:8]}"
        )
    process = Denoising(policy, sampler, steps, cond)
    if "noise" in method.needs and count > 1:
        refuse_deterministic(process, name)
    if "density" in method.needs and (why := unguidable(sampler)):
        raise SteeringError(f"'{name}' follows the reward's gradient, but {why}")
    if "gradient" in method.needs:
        for part in rewards.parts:
            if not getattr(part.reward, "differentiable", False):
                raise SteeringError(f"'{name}' follows the reward's gradient, but '{part.name}' does not declare differentiable = True")
    seeds, cpu = cond.seed.tolist(), cond.seed.device
    task = Task(
        process=process,
        scorer=Rewards(policy, rewards, cond, process.levels),
        draw=Draw(seeds, process.device),
        guess=Draw([sample_seed(GUESS, seed) for seed in seeds], process.device),
        chance=Draw([sample_seed(CHANCE, seed) for seed in seeds[::count]], cpu),
        prompts=len(groups),
        particles=count,
        names=[label(item) for item in cond.items[::count]],
        chunk=chunk,
    )
    return method.run(task)
