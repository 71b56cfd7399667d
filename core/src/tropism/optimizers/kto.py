"""Diffusion-KTO, arXiv 2404.04465: samples that are good or bad, each on its own, against what the reference makes of them.

    g = -(e - e_ref),    z = y beta (g - KL),    loss = mean w_y (1 - U(z))            y = 1 for good samples, -1 for bad ones

with e the denoising error. U is a utility: sigmoid (Kahneman and Tversky: averse to loss, then indifferent), log sigmoid(z) (loss-averse:
cares most for what is worst), or -log sigmoid(-z) (risk-seeking: cares most for what is best, and is never satisfied). KL is the gain of
all samples, good or bad, above which a good one must lie and below which a bad one; without gradient, not below 0. Its three forms:

batch        the mean of g over the batch, as released
balanced     the mean of the two classes' means, which a rare class pulls as much as a frequent one
mismatched   the mean of g of samples with the conditions of others, as KTO for text estimates it (arXiv 2402.01306); two more forwards

Details that matter. Good and bad need not come in pairs, nor equally often; weigh a rare class up by ``good`` and ``bad``. KL is of the
batch on the device: with small batches it is noisy. In a rollout, samples are good or bad by the sign of their advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tropism.diffusion.noising import Noised, noised
from tropism.optimizers.base import LabelBatch, Numbers
from tropism.optimizers.denoising import mean_square, residual
from tropism.optimizers.preference import in_range
from tropism.optimizers.stabilisers import Referenced
from tropism.policy import Policy
from tropism.types import Tree, tree_map

UTILITIES = ("sigmoid", "loss-averse", "risk-seeking")
FORMS = ("batch", "balanced", "mismatched")
UNPAIRED = "it weighs a loser against the winner of its pair, and labelled samples have no partner; use dpo"


@dataclass
class Kto(Referenced):
    """beta: strength of the tie to the reference. utility, kl: see the head of this file. good, bad: weights of the two classes. draws,
    weighting, anchor (on good samples), average: as in Preference."""

    beta: float = 1000.0
    utility: str = "sigmoid"
    kl: str = "batch"
    good: float = 1.0
    bad: float = 1.0
    draws: int = 4
    weighting: str = "network"
    anchor: float = 0.0
    average: float | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    without: ClassVar[dict[str, str]] = {"keep": UNPAIRED}

    def __post_init__(self) -> None:
        in_range(self)
        for name, value, known in (("utility", self.utility, UTILITIES), ("kl", self.kl, FORMS)):
            if value not in known:
                raise ValueError(f"{name}: '{value}'; expected one of {', '.join(known)}")

    def loss(self, policy: Policy, batch: LabelBatch) -> tuple[torch.Tensor, Numbers]:
        at, cond = noised_batch(policy, batch)
        label = batch.labelled.label.to(at.x.device)[batch.sample]
        with torch.no_grad(), self.as_reference():
            base = mean_square(residual(policy, at, cond, self.weighting))
        error = mean_square(residual(policy, at, cond, self.weighting))
        gain = base - error
        z = label.sign() * self.beta * (gain - self._kl(policy, at, cond, gain.detach(), label))
        weight = torch.where(label > 0, self.good, self.bad) * label.abs()
        loss = (weight * (1 - self._utility(z))).mean()
        loss = self.anchored(loss, error * (label > 0))
        change = -gain.detach()
        metrics = {**by_class(label, error=error.detach(), change=change)}
        metrics["implicit_accuracy"] = ((z.detach() > 0).float() + 0.5 * (z.detach() == 0).float()).mean()
        return loss, metrics

    def _utility(self, z: torch.Tensor) -> torch.Tensor:
        if self.utility == "sigmoid":
            return z.sigmoid()
        log_sigmoid = torch.nn.functional.logsigmoid
        return log_sigmoid(z) if self.utility == "loss-averse" else -log_sigmoid(-z)

    @torch.no_grad()
    def _kl(self, policy: Policy, at: Noised, cond: Tree, gain: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The gain [] from which samples are told apart."""
        if self.kl == "mismatched":
            # Half a batch away, as neighbours are siblings of one prompt.
            other = tree_map(lambda t: t.roll(max(len(t) // 2, 1), 0), cond)
            error = mean_square(residual(policy, at, other, self.weighting))
            with self.as_reference():
                gain = mean_square(residual(policy, at, other, self.weighting)) - error
        elif self.kl == "balanced":
            classes = [gain[label > 0], gain[label < 0]]
            gain = torch.stack([one.mean() for one in classes if len(one)])
        return gain.mean().clamp(min=0)


def noised_batch(policy: Policy, batch: LabelBatch) -> tuple[Noised, Tree]:
    """The noised states of a batch of labelled samples, and their conditions."""
    labelled, rows = batch.labelled, batch.sample
    cond = tree_map(lambda t: t[rows], labelled.cond.encoded)
    seeds = labelled.cond.seed[rows.cpu()].tolist()
    return noised(policy, labelled.x0[rows], seeds, batch.number, batch.of, batch.key), cond


def by_class(label: torch.Tensor, **values: torch.Tensor) -> Numbers:
    """The mean of each of ``values`` [M] over good and over bad samples, as good_name and bad_name; of a class that is there."""
    return {
        f"{kind}_{name}": value[rows].mean()
        for kind, rows in (("good", label > 0), ("bad", label < 0))
        for name, value in values.items()
        if rows.any()
    }
