"""Rollouts: samples with the trajectory that made them, and the replay of that trajectory under changed weights."""

from __future__ import annotations

import torch

from tropism.diffusion.noise import Draw
from tropism.diffusion.samplers import Sampler, step
from tropism.policy import Policy
from tropism.types import Condition, Rollout, Steps, tree_map


@torch.no_grad()
def collect(policy: Policy, cond: Condition, sampler: Sampler, steps: int) -> Rollout:
    """Sample one batch and keep its trajectory. The rollout's states and log-probabilities are float32 on the policy's device."""
    device = next(policy.trainable().parameters()).device
    levels = sampler.levels(policy.schedule, steps).to(device)
    draw, count = Draw(cond.seed.tolist(), device), len(cond)
    x = policy.noise(draw, cond.encoded)
    states, logps = [x], []
    for index in range(steps):
        now, then = levels[index].expand(count), levels[index + 1].expand(count)
        x, logp = step(sampler, policy, x, now, then, cond.encoded, noise=draw(x.shape[1:]))
        states.append(x)
        logps.append(logp)
    on = sampler.deviation(levels[:-1], levels[1:]) > 0
    record = Steps(x=torch.stack(states, 1), levels=levels, logp=torch.stack(logps, 1), on=on)
    return Rollout(cond=cond, x0=x, steps=record)


def replay(policy: Policy, sampler: Sampler, rollout: Rollout, sample: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [M] under the policy's present weights of steps ``index`` [M] of samples ``sample`` [M]; has gradient.

    Any mixture of samples and time steps is one forward. In the shape of the rollout's own batch the result is bit-equal to the
    stored one as long as the weights have not changed.
    """
    states, levels = rollout.steps.x, rollout.steps.levels
    encoded = tree_map(lambda t: t[sample], rollout.cond.encoded)
    _, logp = step(
        sampler,
        policy,
        states[sample, index],
        levels[index],
        levels[index + 1],
        encoded,
        x_next=states[sample, index + 1],
    )
    return logp
