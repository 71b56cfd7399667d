"""Every optimizer with settings that suit a small world, and what a run would give it; the matrices of all modalities read this table."""

from __future__ import annotations

from tropism.credit import Batch
from tropism.diffusion.branching import branch
from tropism.diffusion.rollout import collect
from tropism.judges import BestWorst
from tropism.optimizers.awm import Awm
from tropism.optimizers.d3po import D3po
from tropism.optimizers.direct import Direct
from tropism.optimizers.dpo import Dpo
from tropism.optimizers.dro import Dro
from tropism.optimizers.inpo import Inpo
from tropism.optimizers.kto import Kto
from tropism.optimizers.nft import Nft
from tropism.optimizers.policy_gradient import PolicyGradient
from tropism.optimizers.rlcm_direct import RlcmDirect
from tropism.optimizers.smpo import Smpo
from tropism.optimizers.spo import Spo

OPTIMIZERS = {
    "policy-gradient": lambda: PolicyGradient(clip=0.2),
    "policy-gradient with kl": lambda: PolicyGradient(clip=0.2, kl=0.01),
    "policy-gradient of GRPO-Guard": lambda: PolicyGradient(clip=1e-2, normalise=True),
    "nft": lambda: Nft(draws=3),
    "awm": lambda: Awm(draws=3),
    "d3po": lambda: D3po(beta=1.0),
    "d3po with an anchor": lambda: D3po(beta=1.0, anchor=0.01),
    "spo": lambda: Spo(beta=1.0),
    "spo, held": lambda: Spo(beta=1.0, skip=1, keep=0.5, average=0.9),
    "dpo": lambda: Dpo(beta=5.0, draws=2),
    "inpo": lambda: Inpo(beta=5.0, steps=5, draws=2),
    "smpo": lambda: Smpo(beta=1.0, draws=2),
    "kto": lambda: Kto(beta=2.0, draws=2),
    "dro": lambda: Dro(draws=2, kl=0.5),
    "dro with a ceiling": lambda: Dro(draws=2, ceiling=1.5, anchor=0.2),
    "draft": lambda: Direct(2),
    "alignprop": lambda: Direct([1, 4]),
    "refl": lambda: Direct([1, 3], jump=True, ceiling=3.0),
    "rlcm-direct": lambda: RlcmDirect(clip=0.2),
}


def refused(optimizer) -> bool:
    """Whether it trains a denoiser, which no consistency model survives."""
    return not optimizer.needs & {"steps", "endings"}


def judged(optimizer, rollout):
    """The rollout with what its credit rule would give."""
    rollout.advantage = Batch()(rollout)
    if "pairs" in optimizer.needs:
        rollout.couples = BestWorst().couples(rollout)
    return rollout


def rolled_out(optimizer, policy, cond, sampler, steps):
    """What a run would collect for the optimizer."""
    with optimizer.acting():
        if "branches" in optimizer.needs:
            return branch(policy, cond, sampler, steps, kept=optimizer.kept(steps))
        start = cond.group.tolist() if "shared start" in optimizer.needs else None
        return collect(policy, cond, sampler, steps, kept=optimizer.kept(steps), means=optimizer.means, start=start)
