"""A chain from noise to a sample, as steering sees it; an exact toy and a policy with a sampler are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from tropism.types import Tree


def stops(index: int, steps: int, end: int) -> list[int]:
    """The points of ``steps`` steps from point ``index`` to ``end``, spread evenly; both ends are among them, and none is there twice."""
    return sorted({index + round(number * (end - index) / steps) for number in range(steps + 1)})


class Noise(Protocol):
    """Random numbers of which every row has a stream of its own: :class:`tropism.diffusion.noise.Draw`."""

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Standard normal numbers [B, *shape]."""

    def uniform(self, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Numbers in [0, 1), [B, *shape]."""

    def take(self, rows: Sequence[int]) -> Noise:
        """The streams of rows alone, going on from where they are; those of other rows stand still meanwhile."""


class Process(Protocol):
    """A chain of ``steps`` steps. A state is a tree of tensors [B, ...] that holds all that the next step depends on: ``x``; ``row``, int64
    on the CPU, its row of the conditions; and whatever else there is (a sampler's history, caches). Methods are pure: they give a new
    tree, and any rows may be cut or repeated.
    """

    steps: int
    forwards: int  # evaluations of the network so far, one for each row

    def noisy(self, index: int) -> bool:
        """Whether step ``index`` has noise: copies of a particle part there."""

    def start(self, draw: Noise) -> Tree:
        """The states before step 0, one for each stream."""

    def look(self, state: Tree, index: int) -> Tree:
        """One forward before step ``index``: the state with ``x0``, what is predicted from it now, and what the step needs of the network.

        Differentiable in ``x`` where the process can be guided.
        """

    def noise(self, draw: Noise, state: Tree, index: int) -> Tree:
        """The random numbers of step ``index``, one row for each stream."""

    def move(self, state: Tree, index: int, noise: Tree, pull: torch.Tensor | None = None) -> tuple[Tree, torch.Tensor]:
        """Take step ``index`` from a state that was looked at: the next state, and log p / tau [B] float64.

        pull: gradient [B, ...] of a log-potential, along which the proposal tau goes; without it tau is p and the ratio is 0.
        """

    def plausible(self, state: Tree, index: int, noise: Tree) -> torch.Tensor:
        """One draw of x0 [B, ...] for every state that was looked at, from (nearly) its law given the state; ``noise`` as in a move."""

    def ahead(self, state: Tree, index: int, steps: int) -> torch.Tensor:
        """x0 [B, ...] where ``steps`` deterministic steps lead from a state that was looked at, over the levels that are left."""
