"""DRO, direct reward optimisation of DSO (arXiv 2503.22677, section 4): labels, a denoising error, and nothing else.

    loss = mean y e,    y = 1 for good samples and -1 for bad ones (a label between the two counts by its size)

No pairs, no reference, no beta: the cheapest of its kind, and with a verdict that can be trusted (a simulator's) the most effective.
It has no lower bound: nothing stops the error of bad samples from growing, and in the end the model cheats (DSO's grew base plates
under its objects) or breaks. The paper's brakes are a low learning rate, LoRA and stopping early. Here are more; the first two are off by
default, as in the paper, and share one more forward:

ceiling  a bad sample counts with min(e, ceiling e_base): at a noised state whose error is this many times the base model's it teaches no
         more, so the loss is bounded below; 1.05 is careful, and above the alarm it says little
kl       weight of the distance to the base model's prediction, in the space of the errors; above 1 the loss is bounded below, whatever the
         labels, and below that it slows the growth
anchor   weight of the good samples' error beside the loss: that counts 1 + anchor times
alarm    ``growth`` is the bad samples' error against that before the first update, level by level; ``alarm`` is 1 in a batch where it
         is above this
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from tropism.optimizers.base import LabelBatch, Numbers, Weights
from tropism.optimizers.denoising import mean_square, residual
from tropism.optimizers.kto import UNPAIRED, by_class, noised_batch
from tropism.optimizers.preference import in_range
from tropism.optimizers.stabilisers import Anchored, Tied
from tropism.policy import Policy


@dataclass
class Dro(Tied, Anchored):
    """draws: noised states of a sample in a pass. weighting: of the errors, see denoising.py. The others: see the head of this file."""

    draws: int = 4
    weighting: str = "network"
    ceiling: float | None = None
    kl: float = 0.0
    anchor: float = 0.0
    alarm: float = 2.0
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    without: ClassVar[dict[str, str]] = {
        "keep": UNPAIRED,
        "average": "its loss has no reference; kl and ceiling hold it to the base model, and an average would follow what they are to stop",
    }

    def __post_init__(self) -> None:
        in_range(self)
        if not (self.kl >= 0 and self.alarm > 1):
            raise ValueError(f"kl: {self.kl}, alarm: {self.alarm}; expected kl of 0 or more and alarm above 1")
        if self.ceiling is not None and not self.ceiling > 1:
            raise ValueError(f"ceiling: {self.ceiling}; expected above 1, how many times the base model's error a bad sample's may be")

    def attach(self, weights: Weights) -> None:
        super().attach(weights)
        self.moved = False  # whether a weight has ever changed
        self.begun = torch.zeros(2, self.draws)  # before that: the sum of bad samples' errors, and their count, by draw

    def loss(self, policy: Policy, batch: LabelBatch) -> tuple[torch.Tensor, Numbers]:
        at, cond = noised_batch(policy, batch)
        label = batch.labelled.label.to(at.x.device)[batch.sample]
        base = self.of_base(lambda: residual(policy, at, cond, self.weighting)) if self.kl or self.ceiling else None
        off = residual(policy, at, cond, self.weighting)
        error = mean_square(off)
        metrics = {**by_class(label, error=error.detach()), **self._watch(error.detach(), label, batch.number)}
        counted = error
        if self.ceiling and base is not None:
            most = torch.where(label < 0, self.ceiling * mean_square(base), torch.inf)
            counted = torch.minimum(error, most)
            held_back = by_class(label, at_ceiling=(error.detach() > most).float())
            metrics.update({name: value for name, value in held_back.items() if name == "bad_at_ceiling"})
        loss, held = self.tied(self.anchored((label * counted).mean(), error * (label > 0)), off, base)
        return loss, {**metrics, **held}

    def updated(self) -> None:
        self.moved = True

    def state_dict(self) -> dict[str, Any]:
        return {"moved": self.moved, "begun": self.begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moved = state["moved"]
        self.begun.copy_(state["begun"])

    def _watch(self, error: torch.Tensor, label: torch.Tensor, number: torch.Tensor) -> Numbers:
        """Growth of the bad samples' error, and whether it is alarming; nothing where there is nothing to compare with."""
        bad = label < 0
        self.begun = self.begun.to(error.device)
        if not self.moved:
            self.begun.index_add_(1, number[bad], torch.stack([error[bad], torch.ones_like(error[bad])]))
        bad &= self.begun[1, number] > 0
        if not bad.any():
            return {}
        before = (self.begun[0] / self.begun[1].clamp(min=1))[number[bad]]
        growth = error[bad].sum() / before.sum()
        return {"growth": growth, "alarm": (growth > self.alarm).float()}
