"""What the methods that search have in common: rewards read, genealogy and cost kept, and the best taken.

They look for a high reward within a number of forwards. Their particles are no draws from p(x0) exp(lambda r(x0)), whatever their number:
they come out with equal weights, and ``log_z`` and ``lam`` are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tropism.errors import SteeringError
from tropism.steering.scorer import Judged
from tropism.steering.steered import Point, Selector, Steered
from tropism.steering.task import Task
from tropism.types import Tree, tree_map

FRESH = -1  # for an ancestor: a first noise that is new


class Search:
    """Float64 on the CPU, [P, K]; the number of particles may change on the way."""

    def __init__(self, task: Task) -> None:
        self.task, self.before = task, (task.process.forwards, task.scorer.calls)
        self.root = torch.arange(task.particles).expand(task.prompts, task.particles)
        self.noises = torch.full((task.prompts, 1), task.particles)  # first noises so far; fresh ones are numbered on from here
        self.points: list[Point] = []
        self.unscored = 0

    def read(self, rewards: torch.Tensor) -> torch.Tensor:
        """Rewards of P K rows -> [P, K], NaN where there is none."""
        return self.counted(rewards).reshape(self.task.prompts, -1)

    def counted(self, rewards: torch.Tensor) -> torch.Tensor:
        """Rewards of any rows, NaN where there is none; those are counted."""
        found = torch.where(rewards == torch.inf, torch.nan, rewards)
        self.unscored += int(found.isnan().sum())
        return found

    def went(self, index: int, reward: torch.Tensor, ancestors: torch.Tensor | None = None, lam: torch.Tensor | None = None) -> None:
        """Note rewards [P, K] at a point, and which of the K each of the next [P, N] goes on from (None: all stay), or ``FRESH``."""
        prompts, count = reward.shape
        still = torch.arange(count).expand(prompts, count)
        self.points.append(
            Point(
                index=index,
                reward=reward,
                gain=torch.zeros_like(reward),
                ess=torch.full((prompts,), float(count), dtype=torch.float64),
                lam=torch.full((prompts,), torch.nan, dtype=torch.float64) if lam is None else lam,
                ancestors=still if ancestors is None else ancestors,
                resampled=torch.full((prompts,), ancestors is not None),
            )
        )
        if ancestors is not None:
            fresh = ancestors == FRESH
            self.root = torch.where(fresh, self.noises + fresh.cumsum(1) - 1, self.root.gather(1, ancestors.clamp(min=0)))
            self.noises = self.noises + fresh.sum(1, keepdim=True)

    def ended(self, state: Tree, select: Selector) -> Steered:
        """What came out, from states that are finished."""
        judged = self.task.finished(state)
        return self.closed(state["x"], judged, self.read(judged.reward), select)

    def closed(self, x0: torch.Tensor, judged: Judged, reward: torch.Tensor, select: Selector) -> Steered:
        """The same of samples that have been judged, with their rewards [P, K] read. Raises SteeringError for a prompt that has none."""
        prompts, count = reward.shape
        if (gone := reward.isnan().all(1)).any():
            raise SteeringError(
                f"{self.task.name(int(gone.nonzero()[0]))}: the reward was no number for any of its {count} finished samples; look at the "
                "reward of such samples"
            )
        self.went(self.task.process.steps, reward)
        unknown = torch.full((prompts,), torch.nan, dtype=torch.float64)
        steered = Steered(
            x0=x0,
            media=judged.media,
            reward=reward,
            scores={name: values.reshape(reward.shape) for name, values in judged.scores.items()},
            logw=torch.where(reward.isnan(), -torch.inf, 0.0).double(),
            log_z=unknown,
            lam=unknown,
            root=self.root,
            points=self.points,
            forwards=self.task.process.forwards - self.before[0],
            calls=self.task.scorer.calls - self.before[1],
            unscored=self.unscored,
            chosen=torch.arange(count).expand(reward.shape),
        )
        steered.chosen = select(steered, self.task.chance)
        return steered


def rows_of(chosen: torch.Tensor, count: int) -> torch.Tensor:
    """Numbers [P, N] among ``count`` candidates of each prompt -> rows [P N], prompt by prompt."""
    return (chosen + torch.arange(len(chosen), device=chosen.device)[:, None] * count).flatten()


def ranked(reward: torch.Tensor) -> torch.Tensor:
    """Rewards to compare: what has none is below all others."""
    return torch.where(reward.isnan(), -torch.inf, reward)


def heights(reward: torch.Tensor) -> torch.Tensor:
    """Rewards to draw by, [.., M]: those that are absent never, unless all of a row are, which are then alike."""
    ranks = ranked(reward)
    return torch.where((ranks == -torch.inf).all(-1, keepdim=True), 0.0, ranks)


def highest(reward: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` best of each prompt [P, count], in their order; the first of equals."""
    return ranked(reward).sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1)[0]


def copies(state: Tree, count: int) -> Tree:
    """Each row ``count`` times, side by side."""
    return tree_map(lambda t: t.repeat_interleave(count, 0), state)


def several(draws: Sequence[Tree]) -> Tree:
    """Draws of one row a stream, side by side as :func:`copies` puts states."""
    return {
        key: several([draw[key] for draw in draws])
        if isinstance(first, dict)
        else torch.stack([draw[key] for draw in draws], 1).flatten(0, 1)
        for key, first in draws[0].items()
    }


def walked(task: Task, state: Tree, first: int, last: int, count: int = 1) -> Tree:
    """States before step ``last`` from those before step ``first``; ``count`` neighbouring rows take their noise from one stream."""
    for index in range(first, last):
        state = task.look(state, index)
        state, _ = task.move_with(state, index, several([task.process.noise(task.draw, state, index) for _ in range(count)]))
    return state


def put(tree: Tree, rows: torch.Tensor, new: Tree) -> Tree:
    """A tree with other rows [M] at ``rows``."""

    def placed(old: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return old.index_copy(0, rows.to(old.device, non_blocking=True), given)

    return {key: put(value, rows, new[key]) if isinstance(value, dict) else placed(value, new[key]) for key, value in tree.items()}
