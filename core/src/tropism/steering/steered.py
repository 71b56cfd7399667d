"""What steering gives: the population with its weights, how it came about, what it cost, and which samples were chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from tropism.errors import nearest
from tropism.steering.process import Noise
from tropism.steering.scorer import no_steps
from tropism.steering.weights import normalised
from tropism.types import Condition, Rollout

Selector = Callable[["Steered", Noise], torch.Tensor]


@dataclass(frozen=True)
class Point:
    """What happened at one point: P prompts of K particles, float64 on the CPU, before resampling."""

    index: int  # before step ``index``; the number of steps for the finished samples
    reward: torch.Tensor  # [P, K] rewards of the states, NaN where there was none
    gain: torch.Tensor  # [P, K] what the point added to the log-weights
    ess: torch.Tensor  # [P] effective sample size with it
    lam: torch.Tensor  # [P] lambda that counted
    ancestors: torch.Tensor  # [P, N] int64: which of the K each of the next goes on from; -1 where it is a first noise that is new
    resampled: torch.Tensor  # [P] bool


@dataclass(kw_only=True)
class Steered:
    """P prompts of K finished particles; rows of x0 and media are prompt by prompt.

    Weighted by ``logw``, the particles are draws from p(x0) exp(lambda r(x0)) / Z as K grows (the methods that search say otherwise).
    """

    x0: torch.Tensor  # [P K, ...] on the policy's device
    media: dict[str, torch.Tensor]  # [P K, ...] by kind, on the CPU
    reward: torch.Tensor  # [P, K] float64, of the decoded samples themselves; NaN where there was none
    scores: dict[str, torch.Tensor]  # [P, K] raw, by reward
    logw: torch.Tensor  # [P, K] float64 log-weights; 0 where all count alike
    log_z: torch.Tensor  # [P] estimated log E exp(lambda r) under the policy; its exponential is unbiased
    lam: torch.Tensor  # [P] lambda of the target
    root: torch.Tensor  # [P, K] the number of the first noise that each particle comes from; new ones on the way are numbered on
    points: list[Point]
    forwards: int  # of one sample each
    calls: int  # rewards of one sample each
    unscored: int  # of these, how many gave no number
    chosen: torch.Tensor  # [P, n] particles that the selector chose

    @property
    def weights(self) -> torch.Tensor:
        """[P, K], summing to 1 for each prompt."""
        return normalised(self.logw)

    @property
    def roots(self) -> torch.Tensor:
        """How many of the first noises live on, [P]."""
        ordered = self.root.sort(1).values
        return 1 + (ordered.diff(dim=1) != 0).sum(1)

    @property
    def mean_reward(self) -> torch.Tensor:
        """The weighted mean reward, [P]."""
        return (self.weights * torch.where(self.logw > -torch.inf, self.reward, 0.0)).sum(1)

    def rows(self) -> torch.Tensor:
        """The rows of x0 and of media that were chosen, [P n], prompt by prompt."""
        prompts, count = self.logw.shape
        return (self.chosen + torch.arange(prompts)[:, None] * count).flatten()

    @property
    def samples(self) -> torch.Tensor:
        """What was chosen, decoded: media of the first kind [P n, ...], prompt by prompt, on the CPU."""
        return next(iter(self.media.values()))[self.rows()]

    def rollout(self, cond: Condition) -> Rollout:
        """The chosen samples as a scored rollout; cond: the conditions of all particles that steering was given."""
        rows = self.rows()
        x0 = self.x0[rows.to(self.x0.device)]
        prompts = len(self.chosen)
        given = (self.chosen + torch.arange(prompts)[:, None] * (len(cond) // prompts)).flatten()  # fewer particles may have come out
        made = Rollout(cond=cond.take(given), x0=x0, steps=no_steps(x0), media={kind: all_[rows] for kind, all_ in self.media.items()})
        made.scores = {name: values.flatten()[rows].float() for name, values in self.scores.items()}
        made.reward = self.reward.flatten()[rows].float()
        return made


def best(steered: Steered, chance: Noise) -> torch.Tensor:
    """The particle whose decoded sample has the highest reward, of each prompt; the first of equals."""
    return torch.where(steered.reward.isnan(), -torch.inf, steered.reward).argmax(1, keepdim=True)


def everyone(steered: Steered, chance: Noise) -> torch.Tensor:
    """All particles; they count by their weights."""
    return torch.arange(steered.logw.shape[1]).expand_as(steered.logw)


def one(steered: Steered, chance: Noise) -> torch.Tensor:
    """One particle drawn by weight: a draw from the target, where the best is not."""
    below = steered.weights.cumsum(1) <= chance.uniform().double().cpu()[:, None] * steered.weights.sum(1, keepdim=True)
    return below.sum(1, keepdim=True).clamp(max=below.shape[1] - 1)


SELECTORS: dict[str, Selector] = {"best": best, "all": everyone, "one": one}


def known(kind: str, name: str, names: Mapping[str, object]) -> None:
    """Raises ValueError with the nearest name where there is none of that name."""
    if name not in names:
        raise ValueError(f"{kind}: '{name}' is not known{nearest(name, names)}; expected {', '.join(names)}")
