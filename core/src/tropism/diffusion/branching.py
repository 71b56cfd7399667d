"""Rollouts that branch at every step: several candidates for the next state, each with the sample that it promises; one of them goes on."""

from __future__ import annotations

from dataclasses import replace

import torch

from tropism.diffusion.noise import Draw, sample_seed
from tropism.diffusion.rollout import denoised
from tropism.diffusion.samplers import Sampler, log_prob, transition
from tropism.diffusion.schedules import like
from tropism.policy import Policy
from tropism.types import Condition, Rollout, Steps

CHAIN = 2**40  # what tells the noise of a chain from that of its first candidate


@torch.no_grad()
def branch(policy: Policy, cond: Condition, sampler: Sampler, steps: int, *, kept: range, elsewhere: Sampler | None = None) -> Rollout:
    """Sample a chain for each group of K siblings, which are the K candidates of each of its noisy steps among ``kept``.

    The rollout has a sample for every candidate of every such step, chain by chain and step by step (see :func:`branches` for their
    conditions): ``x0`` is what the candidate promises, and its one stored step leads from the chain's state to it. A candidate's noise
    is drawn from its sample's seed; a chain's first noise, its other steps and which candidate goes on, drawn evenly, from that of its
    first. Other steps are taken once for a chain, outside ``kept`` with ``elsewhere`` (``sampler`` by default). A step costs a
    forward for the chain and one for each candidate; nothing is computed after the last that branches. Raises ValueError for incomplete
    groups.
    """
    size = _group_size(cond)
    device = next(policy.trainable().parameters()).device
    levels = sampler.levels(policy.schedule, steps)
    noisy = (sampler.deviation(levels[:-1], levels[1:]) > 0).tolist()
    forks, levels = [index for index in kept if index < len(noisy) and noisy[index]], levels.to(device)
    if not forks:
        raise ValueError(f"none of the {len(noisy)} steps that are kept ({kept.start} to {kept.stop - 1}) has noise, so nothing can branch")
    chain = cond.take(torch.arange(0, len(cond), size))
    own = Draw(cond.seed.tolist(), device)
    draw = Draw([sample_seed(seed, CHAIN) for seed in chain.seed.tolist()], device)
    heads = torch.arange(len(chain), device=device) * size
    x = policy.noise(draw, levels[0], chain.encoded)
    states, promised, logps = list[torch.Tensor](), list[torch.Tensor](), list[torch.Tensor]()
    for index in range(forks[-1] + 1):
        now, then = levels[index].expand(len(chain)), levels[index + 1].expand(len(chain))
        if index not in forks:
            here = sampler if index in kept else elsewhere or sampler
            x = transition(here, policy, x, now, then, chain.encoded, noise=draw(x.shape[1:])).x
            continue
        taken = transition(sampler, policy, x, now, then, chain.encoded)
        mean, std = taken.mean.repeat_interleave(size, 0), taken.std.repeat_interleave(size)
        candidates = mean + like(std, mean) * own(x.shape[1:])
        states.append(torch.stack([x.repeat_interleave(size, 0), candidates], 1))
        logps.append(log_prob(candidates, mean, std))
        promised.append(denoised(policy, candidates, levels[index + 1].expand(len(cond)), cond.encoded))
        x = candidates[heads + (draw.uniform() * size).long()]

    def rows(parts: list[torch.Tensor]) -> torch.Tensor:
        whole = torch.stack(parts, 1)  # [B, forks, ...], the candidates of a chain in a row
        return whole.view(-1, size, *whole.shape[1:]).transpose(1, 2).flatten(0, 2)

    at = torch.tensor(forks, device=device).repeat_interleave(size).repeat(len(chain))
    record = Steps(x=rows(states), levels=levels, logp=rows(logps)[:, None], on=torch.ones(1, dtype=torch.bool, device=device), at=at)
    return Rollout(cond=branches(cond, len(forks)), x0=rows(promised), steps=record)


def branches(cond: Condition, times: int) -> Condition:
    """The conditions of groups that branch ``times``: each group so many times over, each time as a group with seeds of its own."""
    if times == 1:
        return cond
    size = _group_size(cond)
    row = torch.arange(len(cond)).view(-1, 1, size).expand(-1, times, -1).flatten()
    number = torch.arange(times).repeat_interleave(size).repeat(len(cond) // size)
    found = cond.take(row)
    seeds = [sample_seed(seed, step) for seed, step in zip(found.seed.tolist(), number.tolist(), strict=True)]
    return replace(found, seed=torch.tensor(seeds), group=found.group * times + number)


def _group_size(cond: Condition) -> int:
    size = int((cond.group == cond.group[0]).sum())
    if len(cond) % size or not (cond.group.view(-1, size) == cond.group[::size, None]).all():
        raise ValueError(f"groups {cond.group.tolist()[:16]} are not whole groups of {size} in a row, which a step with candidates needs")
    return size
