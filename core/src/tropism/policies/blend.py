"""A part of the state that the pipeline itself puts back after every step: the picture around a hole, the given frames of a video.

There the loop does not ask its network: it goes on with the known sample z, noised to the next level (inpainting with an ordinary model) or
clean (LTX's conditions). As a policy that is a prediction which leads to z wherever the part is known, so that samplers, inversion and
losses need not know of it: the noise stays, and at the end there is z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tropism.diffusion.schedules import like
from tropism.errors import CaptureRefused
from tropism.policies.guidance import TOLERANCE, relative
from tropism.types import Level, Tree


@dataclass(frozen=True)
class Kept:
    """Where a pipeline puts its known part back. places: bool [B, ...]. clean: it does so without noise."""

    places: torch.Tensor
    clean: bool

    def known(self, quiet: torch.Tensor, level: Level) -> Tree:
        """The condition of it: ``quiet`` [B, ...] is a state, at ``level``, of a run whose noise is zero."""
        value = quiet.float() if self.clean else quiet.float() / level.alpha.to(quiet.device)
        return {"places": self.places, "value": torch.where(self.places, value, torch.zeros_like(value))}


def kept(states: Sequence[torch.Tensor], after: Sequence[torch.Tensor], free: torch.Tensor | None) -> Kept | None:
    """What is put back in a run, None for nothing.

    states: [B, ...] of each step. after: what the scheduler made of each but the last. free: bool [...], which values are the state's.
    """
    limit = max(TOLERANCE, 16 * torch.finfo(states[0].dtype).eps)
    pairs = list(zip(states[1:], after, strict=True))
    put = torch.stack([(x - made).abs() > limit * made.abs().mean() for x, made in pairs]).any(0)
    if all(relative(x.float(), made.float()) <= limit for x, made in pairs):
        put = torch.zeros_like(put)
    still = torch.stack([x == states[0] for x in states]).all(0)
    if free is not None:
        still &= free.to(still.device).reshape(1, *still.shape[1:])
    places = put | still
    return Kept(places, clean=bool(still.any())) if bool(places.any()) else None


def check(part: Kept, runs: Sequence[Sequence[torch.Tensor]], levels: Level, name: str) -> None:
    """Whether the kept part follows its law. runs: the states of two runs whose noise is everywhere 0 and everywhere 1.

    Raises CaptureRefused where what is put back is neither clean nor noised to its level.
    """
    for noise, states in enumerate(runs):
        values = []
        for index in range(1, len(states)):
            value, alpha, sigma = states[index][part.places].float(), float(levels.alpha[index]), float(levels.sigma[index])
            values.append(value if part.clean else (value - sigma * noise) / alpha)
        if any(not relative(value, values[-1]) < 1e-2 for value in values):
            raise CaptureRefused(f"{name} changes the state between its steps, and not by putting a noised or a clean known part back")


def toward(x0: torch.Tensor, x: torch.Tensor, level: Level, parametrization: str) -> torch.Tensor:
    """The prediction [B, ...] float32 at states x that leads to samples x0: the inverse of :func:`tropism.diffusion.schedules.split`."""
    alpha, sigma = like(level.alpha, x), like(level.sigma, x)
    noise = (x.float() - alpha * x0) / sigma
    made = {
        "epsilon": noise,
        "sample": x0,
        "v_prediction": alpha * noise - sigma * x0,
        "flow": noise - x0,
        "edm": sigma * x0 - alpha * noise,
    }
    return made[parametrization]


def applied(made: torch.Tensor, x: torch.Tensor, level: Level, known: Tree, parametrization: str) -> torch.Tensor:
    """A prediction [B, ...] with what leads to the known part in its places."""
    return torch.where(known["places"], toward(known["value"], x, level, parametrization), made)


def begun(first: torch.Tensor, fresh: torch.Tensor, level: Level, known: Tree) -> torch.Tensor:
    """A first state [B, ...] with the known part, noised to its level, in its places."""
    noised = like(level.alpha, fresh) * known["value"].to(fresh) + like(level.sigma, fresh) * fresh
    return torch.where(known["places"].to(fresh.device), noised, first)
