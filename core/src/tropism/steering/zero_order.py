"""Zero-order search over first noises (arXiv 2501.09732, section 3.2): whole samples are made from neighbours of the best noise so far.

A neighbour of noise x is |x| (c u + sqrt(1 - c^2) w), u along x and w a random direction across it: of the same length, so as likely a
noise as x. The first round is best of N. Any sampler will do; where steps have noise too, a neighbour gets its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tropism.errors import SteeringError
from tropism.steering.base import Method
from tropism.steering.best_of_n import at_least_one
from tropism.steering.process import Noise
from tropism.steering.scorer import Judged
from tropism.steering.search import FRESH, Search, highest, ranked, rows_of, walked
from tropism.steering.steered import SELECTORS, Steered, known
from tropism.steering.task import Task


class Around:
    """The streams of a first noise, turned toward a pivot where there is one; what was drawn is kept in ``numbers``, call by call.

    pivot: numbers [B, ...] of each call; near: [B], which rows stay near it.
    """

    def __init__(self, draw: Noise, cosine: float, pivot: list[torch.Tensor] | None = None, near: torch.Tensor | None = None) -> None:
        self.draw, self.cosine, self.pivot, self.near = draw, cosine, pivot, near
        self.numbers: list[torch.Tensor] = []

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        fresh = self.draw(shape)
        if self.pivot is not None and self.near is not None:
            close = neighbour(self.pivot[len(self.numbers)], fresh, self.cosine)
            fresh = torch.where(self.near.to(fresh.device).reshape(-1, *[1] * len(shape)), close, fresh)
        self.numbers.append(fresh)
        return fresh

    def uniform(self, shape: tuple[int, ...] = ()) -> torch.Tensor:
        return self.draw.uniform(shape)

    def take(self, rows: Sequence[int]) -> Noise:
        return self.draw.take(rows)


def neighbour(x: torch.Tensor, fresh: torch.Tensor, cosine: float) -> torch.Tensor:
    """Points [B, ...] as long as x, at an angle of that cosine to it, in the direction of ``fresh`` normal numbers across x."""
    flat, across = x.flatten(1), fresh.flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    u = flat / length
    across = across - (across * u).sum(1, keepdim=True) * u
    w = across / across.norm(dim=1, keepdim=True)
    moved: torch.Tensor = length * (cosine * u + (1 - cosine**2) ** 0.5 * w)
    return moved.reshape(x.shape)


@dataclass
class ZeroOrder(Method):
    """particles: noises of a round. rounds: how many, the first of them far apart. cosine: how near neighbours are. patience: rounds
    without any better neighbour after which all noises are fresh again; 0 is never. The best K samples of all rounds come out.

    A point is a round. On from it go the K samples that are kept, the pivot, and the K noises of the next round, which come from the pivot
    or are fresh; only those have rewards at the next point, as what is kept is not scored again.
    """

    particles: int = 4
    rounds: int = 4
    cosine: float = 0.95
    patience: int = 1
    select: str = "best"

    def __post_init__(self) -> None:
        at_least_one(self.particles)
        if not 1 <= self.rounds <= 100_000:
            raise ValueError(f"rounds: {self.rounds}; expected 1 (best of N) to 100000")
        if not 0 <= self.cosine < 1:
            raise ValueError(f"cosine: {self.cosine}; expected 0 (all across the pivot) to below 1")
        if self.patience < 0:
            raise ValueError(f"patience: {self.patience}; expected rounds without success before a restart, or 0 for none")
        known("select", self.select, SELECTORS)

    @torch.no_grad()
    def run(self, task: Task) -> Steered:
        search, steps, count = Search(task), task.process.steps, task.particles
        around = Around(task.draw, self.cosine)
        x, judged = self._round(search, around)
        if not around.numbers:
            raise SteeringError("this process starts from no noise, so there is none to search around; take fk, svdd or gibbs")
        reward = judged.reward.reshape(task.prompts, count)
        height, place = ranked(reward).max(1)
        pivot = [numbers[rows_of(place[:, None], count).to(numbers.device)] for numbers in around.numbers]
        pool, kept, best = (x, judged), search.root, place  # where the kept and the pivot are among all that the round has
        failures = torch.zeros_like(place)
        for _ in range(1, self.rounds):
            near = failures < self.patience if self.patience else torch.ones_like(failures, dtype=torch.bool)
            parents = torch.where(near, best, FRESH)[:, None].expand(-1, count)
            search.went(steps, reward, torch.cat([kept, best[:, None], parents], 1))
            around = Around(task.draw, self.cosine, [p.repeat_interleave(count, 0) for p in pivot], near.repeat_interleave(count))
            x, judged = self._round(search, around)
            fresh = judged.reward.reshape(task.prompts, count)
            reward = torch.cat([torch.full_like(fresh[:, :1], torch.nan).expand(-1, count + 1), fresh], 1)
            found, place = ranked(fresh).max(1)
            moves = (found > height) | ~near  # after a restart the best of the fresh noises is the pivot, whatever it is worth
            rows = rows_of(place[:, None], count)
            pivot = [
                torch.where(moves.to(p.device).reshape(-1, *[1] * (p.ndim - 1)), numbers[rows.to(p.device)], p)
                for p, numbers in zip(pivot, around.numbers, strict=True)
            ]
            height, best = torch.where(moves, found, height), torch.where(moves, count + 1 + place, count)
            failures = torch.where(moves, 0, failures + 1)
            pool, kept = _better(pool, (x, judged), task.prompts)
            kept = torch.where(kept < count, kept, kept + 1)  # the pivot is between the old and the new ones
        search.went(steps, reward, kept)
        x, judged = pool
        return search.closed(x, judged, judged.reward.reshape(task.prompts, count), SELECTORS[self.select])

    def _round(self, search: Search, around: Around) -> tuple[torch.Tensor, Judged]:
        task = search.task
        state = walked(task, task.start(around), 0, task.process.steps)
        judged = task.finished(state)
        return state["x"], replace(judged, reward=search.counted(judged.reward))


def _better(
    old: tuple[torch.Tensor, Judged], new: tuple[torch.Tensor, Judged], prompts: int
) -> tuple[tuple[torch.Tensor, Judged], torch.Tensor]:
    """The best K of K old and K new samples of each prompt, and which of the 2 K they are [P, K]; the old ones of equals."""
    count = len(old[1].reward) // prompts
    both = torch.cat([old[1].reward.reshape(prompts, -1), new[1].reward.reshape(prompts, -1)], 1)
    kept = highest(both, count)

    def best(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        pairs = torch.cat([a.reshape(prompts, count, *a.shape[1:]), b.reshape(prompts, count, *b.shape[1:])], 1).flatten(0, 1)
        return pairs[rows_of(kept, 2 * count).to(pairs.device)]

    judged = Judged(
        best(old[1].reward, new[1].reward),
        {name: best(values, new[1].scores[name]) for name, values in old[1].scores.items()},
        {kind: best(made, new[1].media[kind]) for kind, made in old[1].media.items()},
    )
    return (best(old[0], new[0]), judged), kept
