"""A method against best-of-N of the same forwards, or of the same seconds; N need not be whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tropism.evaluate import Estimate


def best_of(reward: torch.Tensor, other: torch.Tensor, n: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Of pools [P, M]: the expected highest ``reward`` of n drawn without replacement, and what ``other`` is worth there; [P] each.

    Between whole numbers by a straight line; n beyond M counts as M. Raises ValueError for n below 1.
    """
    size = reward.shape[1]
    if n < 1:
        raise ValueError(f"best of {n} samples; expected 1 or more")
    low = min(math.floor(n), size)
    high, part = min(low + 1, size), min(n, size) - low
    order = reward.sort(1).indices
    place = torch.arange(size, dtype=torch.float64)

    def weights(count: int) -> torch.Tensor:  # the chance that the (i + 1)th from below is the highest: C(i, n - 1) / C(M, n)
        logs = (place + 1).lgamma() - torch.lgamma((place - count + 2).clamp(min=1)) - math.lgamma(count)
        total = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
        return torch.where(place >= count - 1, (logs - total).exp(), 0.0)

    mixed = (1 - part) * weights(low) + part * weights(high)
    first, second = ((values.double().gather(1, order) * mixed).sum(1) for values in (reward, other))
    return first, second


def price(runs: Sequence[Mapping[str, Any]], what: str) -> float:
    """What a method takes, by several runs: its mean forwards; its least seconds, as other work on the machine only adds to them."""
    found = [float(run[what]) for run in runs]
    return min(found) if what == "seconds" else sum(found) / len(found)


def against(runs: Sequence[Mapping[str, Any]], pools: Sequence[Mapping[str, Any]], what: str) -> dict[str, Any]:
    """How much better a method is than best-of-N of the same ``forwards`` or ``seconds``: both rewards, with intervals over prompts."""
    differences: dict[str, list[torch.Tensor]] = {"reward": [], "held out": []}
    sizes, prompts = [], list[int]()
    spent, dear = (price(several, what) for several in (runs, pools))
    for run, pool in zip(runs, pools, strict=True):
        reward, other = torch.tensor(pool["reward"], dtype=torch.float64), torch.tensor(pool["held out"], dtype=torch.float64)
        n = max(1.0, spent / (dear / reward.shape[1]))
        sizes.append(n)
        for name, expected in zip(("reward", "held out"), best_of(reward, other, n), strict=True):
            differences[name].append(torch.tensor(run[name], dtype=torch.float64)[:, 0] - expected)
        prompts += range(len(reward))
    size = len(pools[0]["reward"][0])
    return {
        "n": sizes[0],
        "beyond the pool": sizes[0] > size,
        **{name: Estimate.of(torch.cat(values), torch.tensor(prompts)).as_list() for name, values in differences.items()},
    }


def summed(runs: Sequence[Mapping[str, Any]], pools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A method's means over seeds and prompts, and its differences to best-of-N."""
    means = {name: price(runs, name) for name in ("forwards", "calls", "seconds")}
    values = {
        name: torch.tensor([run[name] for run in runs], dtype=torch.float64)[..., :1].mean().item() for name in ("reward", "held out")
    }
    roots = sum(sum(run["roots"]) / len(run["roots"]) for run in runs) / len(runs)
    return {**means, **values, "roots": roots, **{f"equal {what}": against(runs, pools, what) for what in ("forwards", "seconds")}}


def curve(pools: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Best-of-N for N = 1, 2, 4, ...: means of both rewards, and what N samples of a prompt take."""
    size = len(pools[0]["reward"][0])
    one = {what: price(pools, what) / size for what in ("forwards", "seconds")}
    rows = []
    for n in [2**power for power in range(size.bit_length()) if 2**power <= size]:
        both = [best_of(torch.tensor(pool["reward"]), torch.tensor(pool["held out"]), n) for pool in pools]
        reward, other = (torch.stack([pair[index] for pair in both]).mean().item() for index in (0, 1))
        rows.append({"n": n, "reward": reward, "held out": other, **{what: n * value for what, value in one.items()}})
    return rows
