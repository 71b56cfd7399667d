"""The toy policy under a steering method, and scripted processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from tropism.diffusion.noise import Draw
from tropism.diffusion.samplers import DDIM, Sampler
from tropism.rewards.combine import Combined, Part
from tropism.sampling import condition
from tropism.steering.base import Method, steer
from tropism.steering.scorer import Plain
from tropism.steering.steered import Steered
from tropism.steering.task import Task
from tropism.toy import Near, ToyPolicy
from tropism.types import Tree


def on_toy(
    method: Method,
    prompts: int = 3,
    sampler: Sampler | None = None,
    steps: int = 8,
    seed: int = 0,
    reward: Callable[..., torch.Tensor] | None = None,
    parametrization: str = "epsilon",
    first: int = 0,
    chunk: int | None = None,
) -> Steered:
    """``prompts`` prompts, of which the first is number ``first`` of the stream of a seed."""
    policy = ToyPolicy(parametrization=parametrization)
    items = [{"prompt": f"p{number}"} for number in range(first, first + prompts) for _ in range(method.particles)]
    cond = condition(items, seed, first * method.particles, method.particles)
    cond = replace(cond, encoded=policy.encode(items))
    return steer(policy, cond, sampler or DDIM(), steps, Combined([Part("near", reward or Near())]), method, chunk=chunk)


class Scripted:
    """A chain whose promised rewards are given: look number n, of all rows in order, promises ``script[n]``. x counts the moves."""

    def __init__(self, steps: int, script: list[float]) -> None:
        self.steps, self.script, self.forwards = steps, script, 0

    def noisy(self, index: int) -> bool:
        return True

    def start(self, draw: Draw) -> Tree:
        rows = len(draw.uniform())
        return {"x": torch.zeros(rows, 1, dtype=torch.float64), "row": torch.arange(rows)}

    def look(self, state: Tree, index: int) -> Tree:
        found = self.script[self.forwards : self.forwards + len(state["x"])]
        self.forwards += len(state["x"])
        return {**state, "x0": torch.tensor(found, dtype=torch.float64)[:, None]}

    def noise(self, draw: Draw, state: Tree, index: int) -> Tree:
        return {"normal": draw((1,)).double()}

    def move(self, state: Tree, index: int, noise: Tree, pull: torch.Tensor | None = None) -> tuple[Tree, torch.Tensor]:
        x = state["x0"] if "x0" in state else state["x"]
        return {"x": x, "row": state["row"]}, torch.zeros(len(x), dtype=torch.float64)


def scripted(steps: int, script: list[float], particles: int, prompts: int = 1) -> Task:
    cpu = torch.device("cpu")
    draws = [Draw(range(at, at + count), cpu) for at, count in ((0, prompts * particles), (10**6, prompts * particles), (10**7, prompts))]
    return Task(Scripted(steps, script), Plain(lambda x: x[:, 0]), *draws, prompts, particles)
