"""SPO, step-by-step preference optimization (arXiv 2406.04314): at every step the better of several next states against the worse.

From one state x_t, K candidates for the next are drawn; each is judged by the sample x0 that it promises, and one of them, drawn evenly,
goes on. With rho the ratio of a candidate's density under the policy to that under its reference

    loss = -log sigmoid(beta (log rho_w - log rho_l)),    rho clamped to 1 - clip .. 1 + clip                  (equation 10; as released)

This is D3PO's loss where winner and loser begin at the same state, so that a step is blamed only for what it did, and early steps are not
praised for what later ones made of them.

Details that matter. Winner and loser share the mean of their step: one forward serves both. The paper's judge is a preference model
that was trained on noised pictures and knows their time; a reward that names ``t`` is given it, any other scores x0 as a finished sample.
The first steps promise blurs that nobody can judge, so they are left out (``skip``). K is ``rollout.group``: the samples of a
group are the candidates of a chain. ``credit: {use: best-worst, least: ...}`` is the paper's threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tropism.diffusion.rollout import retake
from tropism.diffusion.samplers import log_prob
from tropism.optimizers.base import StepPairBatch
from tropism.optimizers.d3po import D3po
from tropism.optimizers.denoising import safe_scale
from tropism.policy import Policy


@dataclass
class Spo(D3po):
    """skip: how many first steps have no candidates. keep: Diffusion-SDPO's share of the winner's gain that the loser leaves, see
    denoising.py. The others: see D3po, with the paper's beta."""

    beta: float = 10.0
    skip: int = 0
    keep: float | None = None
    needs: ClassVar[frozenset[str]] = frozenset({"steps", "pairs", "branches"})
    without: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.skip < 0 or (self.keep is not None and not 0 < self.keep < 1):
            raise ValueError(f"skip: {self.skip}, keep: {self.keep}; expected skip of 0 or more and keep between 0 and 1")

    def kept(self, steps: int) -> range:
        if self.skip > steps - 2:  # the last step goes to the clean sample, as a rule without noise
            raise ValueError(f"skip: {self.skip} of {steps} steps leaves none to learn from; expected at most {max(steps - 2, 0)}")
        return range(self.skip, steps)

    def log_probs(self, policy: Policy, batch: StepPairBatch) -> torch.Tensor:
        taken = retake(policy, batch.sampler, batch.rollout, batch.winner, batch.index)
        other = batch.rollout.steps.x[batch.loser, batch.index + 1]
        lost = log_prob(other, taken.mean, taken.std)
        if self.keep is not None:
            mean = taken.mean.detach()
            scale = safe_scale(mean - taken.x, mean - other, None, self.keep)
            lost = lost.detach() + scale * (lost - lost.detach())
        return torch.cat([taken.logp, lost])
