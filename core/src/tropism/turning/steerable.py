"""Why a steering method cannot work in a recipe: with the rollout's sampler, with the rewards, or with what is learned from its samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tropism.diffusion.samplers import Sampler
from tropism.optimizers.base import Optimizer
from tropism.recipe import Recipe
from tropism.steering.base import Method
from tropism.steering.denoising import unguidable

TRAJECTORIES = frozenset({"steps", "endings", "branches", "shared start"})


def misfits(
    recipe: Recipe, rewards: list[Any], sampler: Sampler, noisy: int, steering: Any, optimizer: Any
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Complaints with their places. rewards: what the recipe's rewards name; noisy: how many steps of the rollout's sampler have noise."""
    if recipe.steering is None:
        if recipe.rollout.steering:
            yield ("rollout", "steering"), "there is no method to steer with; add a section such as steering: {use: fk, select: all}"
        return
    name, kind, steps = recipe.steering.use, recipe.rollout.sampler.use, recipe.rollout.steps
    if not isinstance(steering, Method):
        yield ("steering",), f"'{name}' is a {type(steering).__name__}, which is no subclass of tropism.steering.base.Method"
        return
    if not recipe.rewards:
        yield ("steering",), "there is no reward to steer toward; name one under rewards"
    if "noise" in steering.needs and not noisy:
        yield (
            ("steering",),
            f"'{name}' copies particles, but '{kind}' with these arguments and {steps} steps has no noise, so copies stay identical; "
            "give it noise (eta above 0), take a stochastic sampler, or best-of-n",
        )
    if "density" in steering.needs and (why := unguidable(sampler)):
        yield ("steering",), f"'{name}' follows the reward's gradient, but {why}"
    for part, target in zip(recipe.rewards, rewards, strict=True):
        if "gradient" in steering.needs and not getattr(target, "differentiable", False):
            yield ("steering",), f"'{name}' follows the reward's gradient, but '{part.use}' does not declare differentiable = True"
    if recipe.rollout.steering:
        yield from _unlearnable(recipe, steering, optimizer)


def _unlearnable(recipe: Recipe, steering: Method, optimizer: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Why nothing can be learned from steered samples."""
    rollout, place = recipe.rollout, ("rollout", "steering")
    if isinstance(optimizer, Optimizer) and optimizer.needs & TRAJECTORIES:
        yield place, f"'{recipe.optimizer.use}' learns from trajectories, which steered samples have none of; take nft, awm, dpo or kto"
    if not recipe.rewards or recipe.offline is not None:
        yield place, "steering follows the rewards of a rollout; this run learns from judged media"
    if rollout.group != steering.particles:
        yield place, f"the samples of a prompt are the particles: write rollout.group: {steering.particles}; found {rollout.group}"
    elif rollout.batch % rollout.group:
        yield place, f"particles of a prompt are steered together; rollout.batch {rollout.batch} is not a multiple of {rollout.group}"
    if getattr(steering, "select", None) != "all":
        yield ("steering",), "all particles are learned from: write select: all"
