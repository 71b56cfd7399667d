"""The process of a policy and a sampler: latents that are denoised step by step."""

from __future__ import annotations

import itertools
from typing import cast

import torch

from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.glass import Glass
from tropism.diffusion.noise import Draw
from tropism.diffusion.samplers import Sampler
from tropism.diffusion.schedules import Schedule, like, split
from tropism.errors import SteeringError
from tropism.policy import Policy
from tropism.steering.process import Noise, stops
from tropism.steering.task import gather
from tropism.types import Condition, Item, Level, Tree


class Said:
    """A policy whose first answer is known already; what a sampler asks beyond it goes to the network and is counted."""

    def __init__(self, policy: Policy, said: torch.Tensor) -> None:
        self.policy, self.emits, self.asked = policy, policy.emits, 0
        self._said: torch.Tensor | None = said

    @property
    def schedule(self) -> Schedule:
        return self.policy.schedule

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        if self._said is not None:
            said, self._said = self._said, None
            return said
        self.asked += len(x)
        return self.policy.predict(x, level, cond)

    def encode(self, items: list[Item]) -> Tree:
        return self.policy.encode(items)

    def noise(self, draw: Draw, level: Level, cond: Tree) -> torch.Tensor:
        return self.policy.noise(draw, level, cond)

    def decode(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.policy.decode(x0)

    def trainable(self) -> torch.nn.Module:
        return self.policy.trainable()


class Denoising:
    """A policy under a sampler. State: ``x`` [B, ...], ``row`` [B] of the conditions (on the CPU: what is scored then need not wait for the
    device before it is decoded); after a look ``x0`` and ``said``, the prediction.

    With the seeds of the conditions and without steering, its samples are those of :func:`tropism.diffusion.rollout.collect`, bit for bit.
    """

    def __init__(self, policy: Policy, sampler: Sampler, steps: int, cond: Condition) -> None:
        self.policy, self.sampler, self.cond = policy, sampler, cond
        self.device = next(policy.trainable().parameters()).device
        levels = sampler.levels(policy.schedule, steps)
        self.steps = len(levels) - 1  # a pipeline that starts from a noised picture takes fewer
        self.deviations: list[float] = sampler.deviation(levels[:-1], levels[1:]).tolist()
        self.levels = levels.to(self.device)
        self.forwards = 0

    def noisy(self, index: int) -> bool:
        return self.deviations[index] > 0

    def start(self, draw: Noise) -> Tree:
        x = self.policy.noise(cast(Draw, draw), self.levels[0], self.cond.encoded)
        return {"x": x, "row": torch.arange(len(x))}

    def look(self, state: Tree, index: int) -> Tree:
        x, level = state["x"], self._level(state, index)
        said = self.policy.predict(x, level, self._encoded(state))
        self.forwards += len(x)
        x0, _ = split(said, x, level, self.policy.schedule.parametrization)
        skip, out = self.policy.schedule.boundary_weights(level)
        return {**state, "said": said, "x0": like(out, x) * x0 + like(skip, x) * x.float()}

    def noise(self, draw: Noise, state: Tree, index: int) -> Tree:
        return {"normal": draw(tuple(state["x"].shape[1:]))}

    def move(self, state: Tree, index: int, noise: Tree, pull: torch.Tensor | None = None) -> tuple[Tree, torch.Tensor]:
        x, now, then = state["x"], self._level(state, index), self._level(state, index + 1)
        said = Said(self.policy, state["said"])
        if isinstance(self.sampler, Glass):
            if pull is not None:
                raise SteeringError(unguidable(self.sampler))
            x = self.sampler.jump(said, x, now, then, self._encoded(state), noise["normal"])
            self.forwards += said.asked
            return {"x": x, "row": state["row"]}, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        mean, std = self.sampler.mean(said, x, now, then, self._encoded(state)), self.sampler.deviation(now, then)
        self.forwards += said.asked
        shift = like(std, x) * noise["normal"]
        ratio = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if pull is not None:
            # With x' = mean + std z + std^2 g, log N(x'; mean) - log N(x'; mean + std^2 g) = -std g.z - std^2 |g|^2 / 2, without rounding.
            along = like(std, x) * pull
            ratio = -(along.double() * (noise["normal"].double() + along.double() / 2)).flatten(1).sum(1)
            shift = shift + like(std, x) * along
        return {"x": mean + shift, "row": state["row"]}, ratio

    def renoise(self, state: Tree, index: int, to: int, noise: Tree) -> Tree:
        """States before step ``to``, an earlier one, from the law of noising those before step ``index``."""
        x, now, then = state["x"], self._level(state, index), self._level(state, to)
        kept = then.alpha / now.alpha
        fresh = (then.sigma**2 - (kept * now.sigma) ** 2).clamp(min=0).sqrt()
        return {"x": like(kept, x) * x + like(fresh, x) * noise["normal"], "row": state["row"]}

    def plausible(self, state: Tree, index: int, noise: Tree) -> torch.Tensor:
        """x0 + r eps with r = sigma / sqrt(alpha^2 + sigma^2): exact for data of unit variance (LGD, Song et al., ICML 2023)."""
        level = self._level(state, index)
        spread = level.sigma / (level.alpha**2 + level.sigma**2).sqrt()
        x0: torch.Tensor = state["x0"]
        drawn: torch.Tensor = x0 + like(spread, x0) * noise["normal"]
        return drawn

    def ahead(self, state: Tree, index: int, steps: int) -> torch.Tensor:
        """Along the ODE; the first of its forwards was the look."""
        said, encoded = Said(self.policy, state["said"]), self._encoded(state)
        x: torch.Tensor = state["x"]
        for here, there in itertools.pairwise(stops(index, steps, self.steps)):
            x = Ode().mean(said, x, self._level({"x": x}, here), self._level({"x": x}, there), encoded)
        self.forwards += said.asked
        return x

    def _level(self, state: Tree, index: int) -> Level:
        return self.levels[index].expand(len(state["x"]))

    def _encoded(self, state: Tree) -> Tree:
        return gather(self.cond.encoded, state["row"])


def unguidable(sampler: Sampler) -> str:
    """Why steps of a sampler cannot follow a gradient; nothing where they can."""
    if isinstance(sampler, Glass):
        return "steps of sampler 'glass' have no density, so they cannot follow a gradient; take fk, or sampler flow-sde"
    return ""


def refuse_deterministic(process: Denoising, method: str) -> None:
    """Raise SteeringError where no step has noise: copies of a particle would stay identical to the end."""
    if not any(process.noisy(index) for index in range(process.steps)):
        name = type(process.sampler).__name__.lower()
        raise SteeringError(
            f"'{method}' copies particles, but sampler '{name}' has no noise in its {process.steps} steps, so copies stay identical and "
            "only cost forwards; take a sampler with noise (ddim with eta 1, flow-sde, cps, consistency), or best-of-n"
        )
