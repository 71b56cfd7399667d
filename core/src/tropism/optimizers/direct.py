"""Back-propagation of a differentiable reward through the last steps of sampling: DRaFT, AlignProp, ReFL.

    loss = -mean R(decode(x0)),    x0 = the last K steps, taken anew from the rollout's stored state with gradient

DRaFT-K (arXiv 2309.17400): ``last: K``. AlignProp (arXiv 2310.03739): ``last: [1, S]``, K drawn anew in every pass. ReFL (arXiv
2304.05977): ``last: [a, b]``, ``jump: true`` (x0 is predicted from there in one go) and ``ceiling`` (loss = mean max(ceiling - R, 0), so
that samples that are good enough teach nothing).

Details that matter. The first steps are not taken twice: the rollout keeps its last states, and the noise of a stochastic step is drawn
again from the sample's seed, so the samples that teach are the samples that were scored. The gradient passes the decoder; ``recompute``
keeps no activations of the denoiser. A reward that can be followed downhill is hacked quickly: watch a held-out one, and hold to the base
model with ``kl``, the weight of the mean square distance between a sample and what the base model makes of the same stored state, both
decoded; that costs ``last`` forwards and a decoding more. What a reward has nothing to say about then stays as it is, instead of drifting
along. It is measured on what is seen, not on latents, where the same gain in reward costs more change.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import torch

from tropism.diffusion.rollout import finish
from tropism.optimizers.base import EndBatch, Numbers
from tropism.optimizers.stabilisers import Tied
from tropism.policy import Policy
from tropism.types import Rollout, Steps


@dataclass
class Direct(Tied):
    """last: how many last steps have gradient, or [fewest, most]. jump, ceiling: see ReFL above. recompute: gradient checkpointing.
    kl: see above."""

    last: int | list[int] = 1
    jump: bool = False
    ceiling: float | None = None
    recompute: bool = False
    kl: float = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({"endings"})

    def __post_init__(self) -> None:
        ends = [self.last, self.last] if isinstance(self.last, int) else list(self.last)
        if len(ends) != 2 or not 1 <= ends[0] <= ends[1]:
            raise ValueError(f"last: {self.last}; expected a number of steps, or [fewest, most] of at least 1")
        if self.kl < 0:
            raise ValueError(f"kl: {self.kl}; expected 0 or more")
        self.fewest, self.most = ends

    def kept(self, steps: int) -> range:
        if self.most > steps:
            raise ValueError(f"last: {self.last} reaches back over {self.most} steps, but a sample has {steps}")
        return range(steps - self.most, steps)

    def loss(self, policy: Policy, batch: EndBatch) -> tuple[torch.Tensor, Numbers]:
        # The same in every batch of a pass, so that it does not depend on how an update is cut.
        last = random.Random(batch.key).randint(self.fewest, self.most)
        made = ending(policy, batch, last, self.jump, self.recompute)
        reward = batch.reward(made)
        loss = -reward.mean() if self.ceiling is None else (self.ceiling - reward).clamp(min=0).mean()
        base = self.of_base(lambda: decoded(ending(policy, batch, last, self.jump))) if self.kl else None
        loss, held = self.tied(loss, decoded(made), base)
        return loss, {"direct_reward": reward.detach().mean(), **held}


def ending(policy: Policy, batch: EndBatch, last: int, jump: bool = False, recompute: bool = False) -> Rollout:
    """The batch's samples, finished and decoded anew, with gradient through their ``last`` steps and the decoder."""
    rollout = batch.rollout
    x0 = finish(policy, batch.sampler, rollout, batch.sample, last, jump=jump, recompute=recompute)
    whole = rollout.steps
    none = Steps(x=whole.x[batch.sample, :0], levels=whole.levels[:0], logp=whole.logp[batch.sample, :0], on=whole.on[:0])
    return Rollout(cond=rollout.cond.take(batch.sample), x0=x0, steps=none, media=policy.decode(x0))


def decoded(made: Rollout) -> torch.Tensor:
    """The media of the first kind, [M, ...]."""
    return next(iter(made.media.values()))
