"""The records that pass between the four parts: condition, steps, rollout; pairs and labelled samples.

Shapes: B samples, S sampler steps; ``...`` is the shape of one sample. States, levels and log-probabilities are float32 whatever the
network runs in: bfloat16 states shift log-probabilities by more than the clip ranges in use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tropism.errors import PolicyError

Item = dict[str, Any]  # {"prompt": "red apple", ...}: what a dataset yields and what rewards may name as arguments
Tree = dict[str, Any]  # nested dicts of tensors whose first axis is the batch


@dataclass(frozen=True)
class Level:
    """One noise level or many: ``t``, ``alpha`` and ``sigma`` of one shape, float32."""

    t: torch.Tensor
    alpha: torch.Tensor
    sigma: torch.Tensor

    def __getitem__(self, index: Any) -> Level:
        return Level(self.t[index], self.alpha[index], self.sigma[index])

    def __len__(self) -> int:
        return len(self.t)

    def expand(self, count: int) -> Level:
        """A scalar level for each of ``count`` samples: [] -> [count]."""
        return Level(self.t.expand(count), self.alpha.expand(count), self.sigma.expand(count))

    def to(self, device: torch.device) -> Level:
        return Level(self.t.to(device), self.alpha.to(device), self.sigma.to(device))


def tree_map(fn: Callable[[torch.Tensor], torch.Tensor], tree: Tree) -> Tree:
    """Apply ``fn`` to every tensor of a tree."""
    return {key: tree_map(fn, value) if isinstance(value, dict) else fn(value) for key, value in tree.items()}


def tree_cat(trees: Sequence[Tree], within: str = "") -> Tree:
    """Concatenate trees of one structure along the batch axis. Raises PolicyError that names a tensor whose other axes differ.

    A tensor under the key ``padded`` [B, copies, length, ...] is filled up with zeros to the longest.
    """
    joined: Tree = {}
    for key, first in trees[0].items():
        values: list[Any] = _padded([tree[key] for tree in trees]) if key == "padded" else [tree[key] for tree in trees]
        if isinstance(first, dict):
            joined[key] = tree_cat(values, f"{within}{key}.")
            continue
        first = values[0]
        odd = next((value for value in values if value.shape[1:] != first.shape[1:]), None)
        if odd is not None:
            raise PolicyError(
                f"condition '{within}{key}' is {list(first.shape[1:])} for one item and {list(odd.shape[1:])} for another, so they make no "
                "batch; the policy's encode must pad it to one shape"
            )
        joined[key] = torch.cat(values)
    return joined


def _padded(values: list[torch.Tensor]) -> list[torch.Tensor]:
    longest = max(value.shape[2] for value in values)
    return [torch.cat([v, v.new_zeros(*v.shape[:2], longest - v.shape[2], *v.shape[3:])], 2) if v.shape[2] < longest else v for v in values]


def content(item: Item) -> str:
    """An item as a key: the same text for items of the same content."""
    return json.dumps(item, sort_keys=True, default=str)


def label(item: Item) -> str:
    """What stands for an item in tables and on pages: its prompt, or all of it where it has none."""
    return str(item.get("prompt", item))


@dataclass(kw_only=True)
class Condition:
    """What a batch of samples is conditioned on."""

    items: list[Item]  # B raw items
    encoded: Tree  # tensors [B, ...] from Policy.encode
    seed: torch.Tensor  # [B] int64: the sample's own seed, so that a sample does not depend on its neighbours
    group: torch.Tensor  # [B] int64: siblings of one prompt share a number

    def __len__(self) -> int:
        return len(self.items)

    def slice(self, begin: int, end: int) -> Condition:
        """Samples begin..end."""
        cut = tree_map(lambda t: t[begin:end], self.encoded)
        return Condition(items=self.items[begin:end], encoded=cut, seed=self.seed[begin:end], group=self.group[begin:end])

    def take(self, rows: torch.Tensor) -> Condition:
        """Samples number ``rows`` [M]."""
        here = rows.cpu()
        return Condition(
            items=[self.items[row] for row in here.tolist()],
            encoded=tree_map(lambda t: t[rows], self.encoded),
            seed=self.seed[here],
            group=self.group[here],
        )

    def pick(self, rows: Sequence[int]) -> Condition:
        """Samples by their places, in that order."""
        index = torch.tensor(list(rows), dtype=torch.long)
        cut = tree_map(lambda t: t[index.to(t.device)], self.encoded)
        return Condition(items=[self.items[row] for row in rows], encoded=cut, seed=self.seed[index], group=self.group[index])

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        return Condition(
            items=[item for part in parts for item in part.items],
            encoded=tree_cat([part.encoded for part in parts]),
            seed=torch.cat([part.seed for part in parts]),
            group=torch.cat([part.group for part in parts]),
        )


@dataclass(kw_only=True)
class Steps:
    """A trajectory, or a run of its steps: what learning needs of how the samples came about. S counts the stored steps."""

    x: torch.Tensor  # [B, S+1, ...] float32 states, noise first; [B, 2, ...] with ``at``
    levels: Level  # [S+1] exact noise levels, shared by the batch
    logp: torch.Tensor  # [B, S] float32, mean over dimensions; 0 where the step is deterministic
    on: torch.Tensor  # [S] bool: steps whose noise reaches the sample, the only ones that are trained
    first: int = 0  # the number of the first stored step in the whole trajectory
    mean: torch.Tensor | None = None  # [B, S, ...] means of the steps, where an optimizer asked for them
    # [B] int64 where each sample stands for a single step: the number among ``levels`` of the one that it begins at. Its x0 is then the
    # sample that its next state promises; x, logp and on hold that step alone.
    at: torch.Tensor | None = None


@dataclass(kw_only=True)
class Couples:
    """What a judge says of a rollout: P couples of rows, who won, and how much that counts.

    Ties are listed too, with weight 0: they teach nothing, but they count in the mean, so that it does not depend on batches.
    """

    winner: torch.Tensor  # [P] int64 rows of the rollout
    loser: torch.Tensor  # [P] int64
    weight: torch.Tensor  # [P] float32, 0 for a tie
    chance: torch.Tensor  # [P] float32 in [0, 1]: the probability that the winner is the better one; 1 where only the choice is known


@dataclass(kw_only=True)
class Pairs:
    """P pairs of finished samples of one condition each, of which one was preferred; from a data set or from a rollout.

    Ties are no pairs: they are left out, or have weight 0, or 0 in ``segments``.
    """

    cond: Condition  # P conditions; ``seed`` is the pair's own, all noise that its two samples are given follows from it
    winner: torch.Tensor  # [P, ...] float32 finished samples x0 as the network knows them (latents)
    loser: torch.Tensor  # [P, ...] float32
    weight: torch.Tensor  # [P] float32: what a pair counts, 1 as a rule
    chance: torch.Tensor  # [P] float32 in [0, 1]: the probability that the winner is the better one; 1 where only the choice is known
    # Who is better where: 1 the winner, -1 the loser, 0 a tie or not compared. Float32 [P, ...] with as many axes as x0 and each as long
    # or 1: [P, 1, F, 1, 1] for segments of a video latent, [P, 1, H, W] for a region of a picture. None where the whole was compared.
    segments: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.cond)


@dataclass(kw_only=True)
class Labelled:
    """M finished samples, each judged on its own; from a data set or from a rollout."""

    cond: Condition  # M conditions; all noise that a sample is given follows from its ``seed``
    x0: torch.Tensor  # [M, ...] float32 finished samples as the network knows them (latents)
    label: torch.Tensor  # [M] float32 in [-1, 1]: 1 good, -1 bad; a grade y of 0 to 1 is 2 y - 1, and 0 teaches nothing

    def __len__(self) -> int:
        return len(self.cond)


@dataclass(kw_only=True)
class Rollout:
    """Samples with their scores; credit fills ``advantage``, and ``couples`` if it is a judge."""

    cond: Condition
    x0: torch.Tensor  # [B, ...] the finished samples as the network knows them (latents)
    steps: Steps
    media: dict[str, torch.Tensor] = field(default_factory=dict)  # decoded, by kind: {"image": [B, 3, H, W] in [0, 1]}
    scores: dict[str, torch.Tensor] = field(default_factory=dict)  # [B] raw, by reward name
    reward: torch.Tensor | None = None  # [B] the weighted combination
    advantage: torch.Tensor | None = None  # [B]
    couples: Couples | None = None

    def __len__(self) -> int:
        return len(self.cond)

    def drop_media(self) -> Rollout:
        """The same without decoded media, which only scoring needs."""
        return replace(self, media={})

    @staticmethod
    def cat(parts: Sequence[Rollout]) -> Rollout:
        """Join rollouts of one sampler and step count."""
        steps = Steps(
            x=torch.cat([part.steps.x for part in parts]),
            levels=parts[0].steps.levels,
            logp=torch.cat([part.steps.logp for part in parts]),
            on=parts[0].steps.on,
            first=parts[0].steps.first,
            mean=None if parts[0].steps.mean is None else torch.cat([part.steps.mean for part in parts if part.steps.mean is not None]),
            at=None if parts[0].steps.at is None else torch.cat([part.steps.at for part in parts if part.steps.at is not None]),
        )
        media = {key: torch.cat([part.media[key] for part in parts]) for key in parts[0].media}
        return Rollout(
            cond=Condition.cat([part.cond for part in parts]), x0=torch.cat([part.x0 for part in parts]), steps=steps, media=media
        )
