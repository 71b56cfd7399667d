"""Rollouts: samples with the trajectory that made them; its replay under changed weights; and its end with gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.checkpoint import checkpoint

from tropism.diffusion.noise import Draw
from tropism.diffusion.samplers import Consistency, Sampler, Transition, transition
from tropism.diffusion.schedules import like
from tropism.policy import Policy
from tropism.types import Condition, Level, Rollout, Steps, Tree, tree_map


@torch.no_grad()
def collect(
    policy: Policy,
    cond: Condition,
    sampler: Sampler,
    steps: int,
    *,
    kept: range | None = None,
    elsewhere: Sampler | None = None,
    means: bool = False,
    start: Sequence[int] | None = None,
) -> Rollout:
    """Sample one batch. The rollout's states and log-probabilities are float32 on the policy's device.

    The steps ``kept`` (all of them by default) are taken with ``sampler`` and stored for learning, with their means if ``means``; the
    others are taken with ``elsewhere`` (``sampler`` by default) and forgotten. Both samplers must visit the same levels. start: seeds [B]
    of the noise that sampling starts from, where it is not the samples' own: siblings of one seed differ by the noise of their steps.
    """
    kept = range(steps) if kept is None else kept
    device = next(policy.trainable().parameters()).device
    levels = sampler.levels(policy.schedule, steps).to(device)
    steps = len(levels) - 1  # a pipeline that starts from a noised picture takes fewer
    draw, count = Draw(cond.seed.tolist(), device), len(cond)
    x = policy.noise(draw, levels[0], cond.encoded)
    if start is not None:  # the samples' own is drawn all the same, so that what they draw next does not depend on this
        x = policy.noise(Draw(start, device), levels[0], cond.encoded)
    states, logps, centres = list[torch.Tensor](), list[torch.Tensor](), list[torch.Tensor]()
    for index in range(steps):
        here = sampler if index in kept else elsewhere or sampler
        now, then = levels[index].expand(count), levels[index + 1].expand(count)
        taken = transition(here, policy, x, now, then, cond.encoded, noise=draw(x.shape[1:]))
        if index in kept:
            states.append(x)
            logps.append(taken.logp)
            centres.append(taken.mean)
            if index == kept[-1]:
                states.append(taken.x)
        x = taken.x
    seen, empty = levels[kept.start : kept.start + len(states)], x[:, None][:, :0]
    record = Steps(
        x=torch.stack(states, 1) if kept else empty,
        levels=seen,
        logp=torch.stack(logps, 1) if kept else empty.flatten(1),
        on=sampler.deviation(seen[:-1], seen[1:]) > 0,
        first=kept.start,
        mean=torch.stack(centres, 1) if means and kept else None,
    )
    return Rollout(cond=cond, x0=x, steps=record)


def retake(policy: Policy, sampler: Sampler, rollout: Rollout, sample: torch.Tensor, index: torch.Tensor) -> Transition:
    """The stored steps ``index`` [M] of samples ``sample`` [M] under the policy's present weights; has gradient.

    Any mixture of samples and time steps is one forward. In the shape of the rollout's own batch the log-probability is bit-equal to the
    stored one as long as the weights have not changed.
    """
    states, levels, at = rollout.steps.x, rollout.steps.levels, rollout.steps.at
    encoded = tree_map(lambda t: t[sample], rollout.cond.encoded)
    begin = index if at is None else at[sample]
    now, then = levels[begin], levels[begin + 1]
    return transition(sampler, policy, states[sample, index], now, then, encoded, x_next=states[sample, index + 1])


def replay(policy: Policy, sampler: Sampler, rollout: Rollout, sample: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [M] of stored steps under the present weights; see :func:`retake`."""
    return retake(policy, sampler, rollout, sample, index).logp


def denoised(policy: Policy, x: torch.Tensor, level: Level, encoded: Tree) -> torch.Tensor:
    """The samples [M, ...] that states ``x`` at levels [M] promise: denoised in one go."""
    clean = torch.zeros_like(level.sigma)
    return Consistency().mean(policy, x, level, Level(clean, clean + 1, clean), encoded)


def finish(
    policy: Policy,
    sampler: Sampler,
    rollout: Rollout,
    sample: torch.Tensor,
    last: int,
    *,
    jump: bool = False,
    recompute: bool = False,
) -> torch.Tensor:
    """The finished samples ``sample`` [M] with gradient through their ``last`` steps, taken anew from the stored state before them.

    The noise of those steps is the rollout's own, drawn again from the samples' seeds: with unchanged weights the result is the
    rollout's ``x0``. jump: instead of those steps, denoise that state in one go (ReFL). recompute: keep no activations, each forward runs
    twice (gradient checkpointing).
    """
    steps, cond = rollout.steps, rollout.cond
    total, device = steps.first + len(steps.on), rollout.x0.device
    begin = total - last
    encoded = tree_map(lambda t: t[sample], cond.encoded)
    x = steps.x[sample, begin - steps.first]
    if jump:
        return denoised(policy, x, steps.levels[begin - steps.first].expand(len(sample)), encoded)
    taken = range(begin - steps.first, len(steps.on))
    noises: list[torch.Tensor] | None = None
    if steps.on[taken.start :].any():
        level = sampler.levels(policy.schedule, total)[0].to(device)
        noises = _noises(policy, cond.seed[sample.cpu()].tolist(), level, encoded, total, last)
    for index in taken:
        now, then = steps.levels[index].expand(len(sample)), steps.levels[index + 1].expand(len(sample))
        if recompute:
            mean = checkpoint(sampler.mean, policy, x, now, then, encoded, use_reentrant=False)
        else:
            mean = sampler.mean(policy, x, now, then, encoded)
        x = mean if noises is None else mean + like(sampler.deviation(now, then), mean) * noises[index - taken.start]
    return x


@torch.no_grad()
def _noises(policy: Policy, seeds: Sequence[int], level: Level, encoded: Tree, total: int, last: int) -> list[torch.Tensor]:
    """What :func:`collect` drew for its ``last`` steps of ``total``."""
    draw = Draw(seeds, level.t.device)
    shape = policy.noise(draw, level, encoded).shape[1:]
    for _ in range(total - last):
        draw(shape)
    return [draw(shape) for _ in range(last)]
