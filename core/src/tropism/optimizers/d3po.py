"""D3PO, arXiv 2311.13231: DPO on the steps of two trajectories that begin with the same noise.

With rho the ratio of a step's density under the policy to that under its reference, for every trained step of winner and loser

    loss = -log sigmoid(beta (log rho_w - log rho_l)),    rho clamped to 1 - clip .. 1 + clip          (equation 16; the clamp as released)

Details that matter. Unclamped it diverges: nothing else stops it from making the loser ever less likely. The released clamp stops both
sides, so a step that a batch has pushed the wrong way by more than ``clip`` is never pushed back; ``sides: one`` clamps only what has gone
far enough the right way, as PPO does. Log-probabilities are means over dimensions, so the loss stays near 0.693: watch the accuracy. The
two trajectories must share their first noise (``rollout.start: group``), and then differ by the noise of their steps alone.

The reference's log-probabilities are those of the rollout as long as no weight has changed, and always with ``reference: rollout``, which
is the policy that made the rollout (iterated DPO): half the forwards. Else they cost one more forward for each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from tropism.diffusion.rollout import replay
from tropism.optimizers.base import Numbers, StepPairBatch, Weights
from tropism.optimizers.stabilisers import Referenced
from tropism.policy import Policy


@dataclass
class D3po(Referenced):
    """beta: strength of the tie to the reference. clip, sides (``both`` or ``one``): the clamp of the ratios. reference: ``base``,
    or ``rollout``. anchor: weight of making the winner's steps likelier, whatever the loser's. average: see stabilisers.py."""

    beta: float = 0.1
    clip: float = 0.1
    sides: str = "both"
    reference: str = "base"
    anchor: float = 0.0
    average: float | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"steps", "pairs", "shared start"})
    without: ClassVar[dict[str, str]] = {
        "keep": "the errors of a winner's and a loser's step are noises of their own, and their product says nothing of whether pushing "
        "the loser away hurts the winner; use spo, whose two steps begin at one state"
    }

    def __post_init__(self) -> None:
        if self.sides not in ("both", "one"):
            raise ValueError(f"sides: '{self.sides}'; expected 'both' (as released) or 'one'")
        if self.reference not in ("base", "rollout"):
            raise ValueError(f"reference: '{self.reference}'; expected 'base' or 'rollout'")
        if self.reference == "rollout" and self.average is not None:
            raise ValueError("average: the reference is the policy of the rollout already; leave out one of reference and average")
        if not (self.beta > 0 and 0 < self.clip < 1):
            raise ValueError(f"beta: {self.beta}, clip: {self.clip}; expected beta above 0 and clip between 0 and 1")
        if self.anchor < 0 or (self.average is not None and not 0 < self.average < 1):
            raise ValueError(f"anchor: {self.anchor}, average: {self.average}; expected anchor of 0 or more and average between 0 and 1")

    def attach(self, weights: Weights) -> None:
        super().attach(weights)
        self.moved = False  # whether a weight has ever changed
        self.stored = True  # whether the rollout's own log-probabilities are the reference's

    def loss(self, policy: Policy, batch: StepPairBatch) -> tuple[torch.Tensor, Numbers]:
        sample, index = batch.sample, batch.index.repeat(2)
        acted = batch.rollout.steps.logp[sample, index]
        base = acted
        if self.reference == "base" and not self.stored:
            with torch.no_grad(), self.as_reference():
                base = self.log_probs(policy, batch)
        logp = self.log_probs(policy, batch)
        change = (logp - base).chunk(2)
        low, high = math.log(1 - self.clip), math.log(1 + self.clip)
        if self.sides == "both":
            winner, loser = (side.clamp(low, high) for side in change)
        else:
            winner, loser = change[0].clamp(max=high), change[1].clamp(min=low)
        loss = (batch.weight * -torch.nn.functional.logsigmoid(self.beta * (winner - loser))).mean()
        loss = self.anchored(loss, -change[0])
        with torch.no_grad():
            gap = change[0] - change[1]
            clamped = torch.cat([winner != change[0], loser != change[1]])
            metrics = {
                "winner_logp_change": change[0].mean(),
                "loser_logp_change": change[1].mean(),
                "implicit_accuracy": ((gap > 0).float() + 0.5 * (gap == 0).float()).mean(),
                "clamped": clamped.float().mean(),
                "ratio_error": ((logp - acted).exp() - 1).abs().max(),
            }
        return loss, metrics

    def log_probs(self, policy: Policy, batch: StepPairBatch) -> torch.Tensor:
        """Of the steps of M pairs, [2 M], winners first."""
        return replay(policy, batch.sampler, batch.rollout, batch.sample, batch.index.repeat(2))

    def updated(self) -> None:
        super().updated()
        self.moved = True

    def finished(self) -> None:
        self.stored = not self.moved

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "moved": self.moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.moved = state["moved"]
        self.stored = not self.moved
