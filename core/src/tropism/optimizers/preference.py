"""What all methods share that learn from pairs by their denoising errors: the loss, its stabilisers, and the curves.

    loss = mean weight * link(-beta / 2 (D_winner - D_loser)) + anchor * mean error_winner

A method of this family says where the pair is noised and what the link is. The stabilisers are options of each:

keep              Diffusion-SDPO (arXiv 2511.03317): the loser's gradient shrinks so far that the winner's error still falls by this part
anchor, average   see stabilisers.py; the anchor is supervised fine-tuning on the winner
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from tropism.diffusion.noising import Noised
from tropism.optimizers.base import Numbers, PairBatch
from tropism.optimizers.denoising import WEIGHTINGS, Fit, compare
from tropism.optimizers.stabilisers import Referenced
from tropism.policy import Policy
from tropism.types import Tree, tree_map


@dataclass
class Preference(Referenced):
    """beta: strength of the tie to the reference; errors are means over dimensions, so the papers' thousands hold. draws: noised states of
    a pair in a pass. weighting: of the errors, see denoising.py. anchor, keep, average: see the head of this file."""

    beta: float = 2000.0
    draws: int = 4
    weighting: str = "network"
    anchor: float = 0.0
    keep: float | None = None
    average: float | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"pairs"})

    def __post_init__(self) -> None:
        in_range(self)

    @abstractmethod
    def noising(self, policy: Policy, batch: PairBatch, cond: Tree) -> Noised:
        """2 M noised states for M pairs, winners first; no gradient."""

    def link(self, inside: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        """The loss [M] of pairs with ``inside`` [M], which is above 0 where the policy agrees with the preference."""
        return -torch.nn.functional.logsigmoid(inside)

    def loss(self, policy: Policy, batch: PairBatch) -> tuple[torch.Tensor, Numbers]:
        pairs, rows = batch.pairs, batch.sample
        cond = tree_map(lambda t: t[rows], pairs.cond.encoded)
        segments = None if pairs.segments is None else pairs.segments.to(rows.device)[rows]
        at = self.noising(policy, batch, cond)
        fit = compare(policy, self.as_reference(), at, cond, weighting=self.weighting, segments=segments, keep=self.keep)
        inside = -0.5 * self.beta * fit.margin
        loss = (pairs.weight.to(rows.device)[rows] * self.link(inside, batch)).mean()
        return self.anchored(loss, fit.winner), curves(fit, inside)


def curves(fit: Fit, inside: torch.Tensor) -> Numbers:
    """What to watch, winner and loser apart: errors, their change against the reference, and how often the policy agrees (ties half).

    A winner_change that rises above 0 is the known failure: the policy forgets the winner to get away from the loser. beta times the
    spread of the margin says how strong beta is for this model, whatever the dimensions; much above 1 few pairs still teach.
    """
    inside = inside.detach()
    return {
        "winner_error": fit.winner.detach().mean(),
        "loser_error": fit.loser.detach().mean(),
        "winner_change": (fit.winner.detach() - fit.winner_base).mean(),
        "loser_change": (fit.loser.detach() - fit.loser_base).mean(),
        "implicit_accuracy": ((inside > 0).float() + 0.5 * (inside == 0).float()).mean(),
        "inside": inside.abs().mean(),
        "loser_scale": fit.rescaled.mean(),
    }


def in_range(options: Any) -> None:
    """Raise ValueError where one of the options common to this family is out of its range."""
    if options.weighting not in WEIGHTINGS:
        raise ValueError(f"weighting: '{options.weighting}'; expected one of {', '.join(WEIGHTINGS)}")
    for name, low, high in (("beta", 0.0, None), ("draws", 0, None), ("keep", 0.0, 1.0), ("average", 0.0, 1.0)):
        value = getattr(options, name, None)
        if value is not None and not (value > low and (high is None or value < high)):
            raise ValueError(f"{name}: {value}; expected above 0" + ("" if high is None else f" and below {high:g}"))
    if options.anchor < 0:
        raise ValueError(f"anchor: {options.anchor}; expected 0 or more")
