"""Lambda, the strength of steering: the target is p(x0) exp(lambda r(x0))."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tropism.steering.weights import effective, particles_of

PARTS = torch.arange(1, 64, dtype=torch.float64) / 64
ROUNDS = 4  # of 64 parts each, after one by factors


@dataclass(frozen=True)
class Strength:
    """number: lambda itself. ess: instead, for each prompt the lambda at which the rewards of its particles, as weights exp(lambda r), have
    an effective sample size of this part of them (0 is one particle, 1 is all). It is measured at every point and never raised again, as
    copies of one particle differ by little, which says nothing of the reward's scale; ``most`` bounds it.

    rising: gamma of tempering, lambda_i = lambda min((1 + gamma)^i - 1, 1) at point i (DAS, arXiv 2501.05803, section 4.2): rewards of
    noisy states count less. 0 is no tempering. The finished sample always has all of lambda.
    """

    number: float | None = None
    ess: float | None = None
    most: float | None = None
    rising: float = 0.0

    @staticmethod
    def read(given: Any, rising: float = 0.0) -> Strength:
        """From a recipe: ``2.0``, ``{ess: 0.5}`` or ``{ess: 0.5, most: 100}``."""
        if is_number(given):
            return Strength(number=float(given), rising=rising)
        if isinstance(given, Mapping) and "ess" in given and set(given) <= {"ess", "most"} and all(map(is_number, given.values())):
            return Strength(ess=given["ess"], most=given.get("most"), rising=rising)
        raise ValueError(f"lambda: {given!r}; expected a number such as 2.0, or {{ess: 0.5}}")

    def __post_init__(self) -> None:
        if self.number is not None and not 0 <= self.number < float("inf"):
            raise ValueError(f"lambda: {self.number}; expected 0 or more (for a lower reward, give it a negative weight)")
        if self.ess is not None and not 0 < self.ess < 1:
            raise ValueError(f"lambda: ess {self.ess}; expected a part of the particles, between 0 and 1")
        if self.most is not None and not 0 < self.most < float("inf"):
            raise ValueError(f"lambda: most {self.most}; expected more than 0")
        if not 0 <= self.rising < float("inf"):
            raise ValueError(f"rising: {self.rising}; expected 0 (no tempering) or more, such as 0.008 for 100 steps")

    def full(self, rewards: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Lambda [P] after seeing rewards [P, K] (NaN: no particle), given what it was ``before`` [P] (infinite: not known yet).

        Stays infinite where rewards have been alike so far: nothing can be said of their scale.
        """
        if self.number is not None:
            return torch.full_like(before, self.number)
        assert self.ess is not None
        most = float("inf") if self.most is None else self.most
        return torch.minimum(before, torch.clamp(by_effective_size(rewards, self.ess), max=most))

    def part(self, index: int, steps: int) -> float:
        """The part of lambda that counts at point ``index``."""
        if self.rising == 0 or index == steps:
            return 1.0
        return min((1 + self.rising) ** index - 1, 1.0)


def is_number(given: Any) -> bool:
    """Whether what a recipe gives is a number."""
    return isinstance(given, int | float) and not isinstance(given, bool)


def by_effective_size(rewards: torch.Tensor, part: float) -> torch.Tensor:
    """The lambda [P] at which exp(lambda r) has effective size 1 + ``part`` (K - 1), for rewards [P, K]; those that are not finite are
    no particles. Infinite where so many have the highest reward that no lambda goes that low. The size falls with lambda, so an interval is
    cut into many parts at once and one of them kept, first by factors and then evenly: right to a part in a million, in a few operations.
    """
    alive = rewards.isfinite()
    top = torch.where(alive, rewards, -torch.inf).amax(1, keepdim=True)
    below = torch.where(alive, rewards - top, 0.0)

    def size(lam: torch.Tensor) -> torch.Tensor:  # [P, M] -> [P, M]
        logw = torch.where(alive[:, None], lam[..., None] * below[:, None], -torch.inf)
        return effective(logw.flatten(0, 1)).reshape(lam.shape)

    nearest = torch.where(below < 0, below, -torch.inf).amax(1)  # minus infinity where all are alike
    target = particles_of(part, alive.sum(1).double())
    high = (-50 / nearest).clamp(max=1e30)  # there all but the highest have no weight
    reached = (nearest > -torch.inf) & (size(high[:, None])[:, 0] <= target)
    least = (1e-3 / -below.amin(1)).clamp(max=1e30)  # there all have nearly the same
    low, tried = torch.zeros_like(target), least[:, None] * (high / least)[:, None] ** PARTS
    for _ in range(1 + ROUNDS):
        step = (size(tried) > target[:, None]).sum(1, keepdim=True)  # so many are too small
        edges = torch.cat([low[:, None], tried, high[:, None]], 1)
        low, high = edges.gather(1, step)[:, 0], edges.gather(1, step + 1)[:, 0]
        tried = low[:, None] + (high - low)[:, None] * PARTS
    return torch.where(reached, high, torch.inf)
