"""DRO, direct reward optimisation of DSO (arXiv 2503.22677, section 4): labels, a denoising error, and nothing else.

    loss = mean y e,    y = 1 for good samples and -1 for bad ones (a label between the two counts by its size)

No pairs, no reference, no beta: the cheapest of its kind, and with a verdict that can be trusted (a simulator's) the most effective.
It has no lower bound: nothing stops the error of bad samples from growing, and in the end the model cheats (DSO's grew base plates
under its objects) or breaks. The paper's brakes are a low learning rate, LoRA and stopping early. Here are two more:

kl       weight of the distance to the base model's prediction, in the space of the errors; above 1 the loss is bounded below, whatever the
         labels, and below that it slows the growth; one more forward
alarm    ``growth`` is the bad samples' error against that before the first update, level by level; ``alarm`` is 1 in a batch where it
         is above this
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from tropism.optimizers.base import LabelBatch, Numbers, Optimizer, Weights
from tropism.optimizers.denoising import mean_square, residual
from tropism.optimizers.kto import by_class, noised_batch
from tropism.optimizers.preference import in_range
from tropism.policy import Policy


@dataclass
class Dro(Optimizer):
    """draws: noised states of a sample in a pass. weighting: of the errors, see denoising.py. kl, alarm: see the head of this file."""

    draws: int = 4
    weighting: str = "network"
    kl: float = 0.0
    alarm: float = 2.0
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def __post_init__(self) -> None:
        in_range(self)
        if not (self.kl >= 0 and self.alarm > 1):
            raise ValueError(f"kl: {self.kl}, alarm: {self.alarm}; expected kl of 0 or more and alarm above 1")

    def attach(self, weights: Weights) -> None:
        super().attach(weights)
        self.moved = False  # whether a weight has ever changed
        self.begun = torch.zeros(2, self.draws)  # before that: the sum of bad samples' errors, and their count, by draw

    def loss(self, policy: Policy, batch: LabelBatch) -> tuple[torch.Tensor, Numbers]:
        at, cond = noised_batch(policy, batch)
        label = batch.labelled.label.to(at.x.device)[batch.sample]
        base = None
        if self.kl:
            with torch.no_grad(), self.weights.reference():
                base = residual(policy, at, cond, self.weighting)
        off = residual(policy, at, cond, self.weighting)
        error = mean_square(off)
        loss = (label * error).mean()
        metrics = {**by_class(label, error=error.detach()), **self._watch(error.detach(), label, batch.number)}
        if base is not None:
            distance = mean_square(off - base).mean()
            loss = loss + self.kl * distance
            metrics["from_base"] = distance.detach()
        return loss, metrics

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
