"""Judges: credit rules that turn the scores of siblings into preferences.

A judge gives :class:`tropism.types.Couples` for a rollout, and like every rule of credit an advantage: a sample's wins minus its losses.
With ``scale`` a score gap is only a probability, as in the model of Bradley and Terry (1952): sigmoid(gap / scale). It is written down as
the pair's ``chance``; with ``noisy`` the winner is drawn with it instead, from the samples' own seeds. A huge ``scale`` (1e9) with
``noisy`` tosses a coin: shuffled labels, the control of every study.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod

import torch

from tropism.credit import Stateless
from tropism.diffusion.noise import sample_seed
from tropism.types import Couples, Rollout


class Judge(Stateless):
    """A rule of credit that compares siblings."""

    min_group = 2

    @abstractmethod
    def couples(self, rollout: Rollout) -> Couples:
        """Pairs of rows within groups; each group of a size has equally many, ties among them with weight 0."""

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        """Wins minus losses, [B]."""
        found, advantage = self.couples(rollout), torch.zeros(len(rollout))
        return advantage.index_add_(0, found.winner, found.weight).index_add_(0, found.loser, -found.weight)


class ByReward(Judge):
    """The part common to judges by the combined reward. scale, noisy: see the head of this file. least: scores that are no further apart
    than this are a tie."""

    def __init__(self, scale: float | None = None, noisy: bool = False, least: float = 0.0) -> None:
        if least < 0:
            raise ValueError(f"least: {least}; expected 0 or more, the score gap up to which two samples are a tie")
        if scale is not None and not scale > 0:
            raise ValueError(f"scale: {scale}; expected above 0, the score gap at which the better one wins 73 % of the time")
        if noisy and scale is None:
            raise ValueError("noisy: true needs a scale, the score gap at which the better one wins 73 % of the time; 1e9 tosses a coin")
        self.scale, self.noisy, self.least = scale, noisy, least

    def couples(self, rollout: Rollout) -> Couples:
        if rollout.reward is None:
            raise ValueError("the rollout has not been scored")
        reward, seeds = rollout.reward.double().cpu(), rollout.cond.seed.tolist()
        pairs = [pair for rows in siblings(rollout.cond.group) for pair in self.compared(rows, reward[rows].tolist())]
        winner, loser = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
        gap = reward[winner] - reward[loser]
        chance = torch.ones_like(gap) if self.scale is None else torch.sigmoid(gap / self.scale)
        if self.noisy:
            drawn = torch.tensor([_uniform(seeds[a], seeds[b]) for a, b in pairs], dtype=gap.dtype)
            winner, loser = torch.where(drawn < chance, winner, loser), torch.where(drawn < chance, loser, winner)
            chance = torch.ones_like(gap)
        return Couples(winner=winner, loser=loser, weight=(gap > self.least).float(), chance=chance.float())

    @abstractmethod
    def compared(self, rows: list[int], scores: list[float]) -> list[tuple[int, int]]:
        """(better, worse) pairs of a group's rows; equal ones in any order."""


class BestWorst(ByReward):
    """The best and the worst of each group: one pair a group, the widest (D3PO by reward, Flow-DPO)."""

    def compared(self, rows: list[int], scores: list[float]) -> list[tuple[int, int]]:
        places = range(len(rows))
        best, worst = max(places, key=scores.__getitem__), min(reversed(places), key=scores.__getitem__)
        return [(rows[best], rows[worst])]


class AllPairs(ByReward):
    """Every two siblings: G (G - 1) / 2 pairs for a group of G (the human route of D3PO takes 21 of 7)."""

    def compared(self, rows: list[int], scores: list[float]) -> list[tuple[int, int]]:
        judged = sorted(zip(scores, rows, strict=True), key=lambda one: -one[0])
        return [(a[1], b[1]) for a, b in itertools.combinations(judged, 2)]


class Pareto(Judge):
    """Every two siblings by all trained rewards at once: the winner is nowhere worse and somewhere better; others are ties (D3PO)."""

    def couples(self, rollout: Rollout) -> Couples:
        if not rollout.scores:
            raise ValueError("the rollout has not been scored")
        scores = torch.stack([values.double().cpu() for values in rollout.scores.values()], 1)
        pairs = [pair for rows in siblings(rollout.cond.group) for pair in itertools.combinations(rows, 2)]
        first, second = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
        gap = scores[first] - scores[second]
        ahead, behind = (gap >= 0).all(1) & (gap > 0).any(1), (gap <= 0).all(1) & (gap < 0).any(1)
        weight = (ahead | behind).float()
        winner, loser = torch.where(behind, second, first), torch.where(behind, first, second)
        return Couples(winner=winner, loser=loser, weight=weight, chance=torch.ones_like(weight))


def siblings(group: torch.Tensor) -> list[list[int]]:
    """The rows of each group [B], in order."""
    rows: dict[int, list[int]] = {}
    for row, number in enumerate(group.tolist()):
        rows.setdefault(number, []).append(row)
    return list(rows.values())


def _uniform(one: int, other: int) -> float:
    """A number in [0, 1) that follows from two samples' seeds."""
    return sample_seed(one, other) / 2**63
