"""What a reward is, and the one place where rewards are called.

A reward is any callable. The names of its arguments say what it needs: a kind of media (``image`` [B, 3, H, W] in [0, 1]), a field of the
items (``prompt``, a list of B), ``x0``, ``seed`` or ``t``. It returns B raw scores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tropism.errors import RewardError
from tropism.types import Rollout

Reward = Callable[..., Any]


def needs(reward: Reward) -> tuple[str, ...]:
    """The names of the fields that a reward asks for."""
    parameters = inspect.signature(reward).parameters.values()
    return tuple(p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def units(rewards: Mapping[str, Reward]) -> dict[str, str]:
    """What scores are counted in, by name, of the rewards that have a ``unit``: such as kB; or ``share``, whose mean is a share."""
    return {name: reward.unit for name, reward in rewards.items() if hasattr(reward, "unit")}


def fields(rollout: Rollout) -> dict[str, Any]:
    """All that a reward may name: media, the columns of the items, ``x0``, ``seed``, and ``t`` [B] for those that know of noise: the time,
    as the network knows it, of the state that a sample was predicted from; 0 for samples that were sampled to the end."""
    steps = rollout.steps
    time = torch.zeros(len(rollout), device=rollout.x0.device) if steps.at is None else steps.levels.t[steps.at + 1]
    columns = {key: [item.get(key) for item in rollout.cond.items] for key in rollout.cond.items[0]}
    return {**columns, **rollout.media, "x0": rollout.x0, "seed": rollout.cond.seed, "t": time}


def score(name: str, reward: Reward, given: Mapping[str, Any], seeds: Sequence[int]) -> torch.Tensor:
    """Call a reward and check what it says: [B] float32 on the CPU.

    Raises RewardError that names the reward and, where values are at fault, the samples: it raised, it gave another number of scores,
    or a score that is not finite. Nothing is replaced by zero.
    """
    values = answer(name, reward, given, len(seeds))
    if not (finite := values.isfinite()).all():
        bad = [seeds[index] for index in (~finite).nonzero().flatten().tolist()]
        raise RewardError(
            f"reward '{name}' returned {values[~finite][:3].tolist()} for {len(bad)} of {len(seeds)} samples; seeds {bad[:5]}"
        )
    return values


def answer(name: str, reward: Reward, given: Mapping[str, Any], count: int) -> torch.Tensor:
    """What a reward says of ``count`` samples, finite or not: [count] float32 on the CPU. Raises RewardError where it raised or gave
    another number of scores."""
    wanted = needs(reward)
    if absent := [key for key in wanted if key not in given]:
        raise RewardError(f"reward '{name}' needs {', '.join(absent)}; the samples have {', '.join(sorted(given))}")
    try:
        with torch.no_grad():
            raw = reward(**{key: given[key] for key in wanted})
        values = torch.as_tensor(raw, dtype=torch.float32).detach().cpu()
    except Exception as error:
        raise RewardError(f"reward '{name}' raised {type(error).__name__}: {error}") from error
    if values.shape != (count,):
        raise RewardError(f"reward '{name}' returned shape {list(values.shape)}; expected [{count}], one score for each sample")
    return values
