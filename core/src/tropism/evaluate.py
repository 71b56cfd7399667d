"""Evaluation: samples of held-out prompts with fixed seeds, scored by every reward and evaluator, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from tropism.types import Rollout


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: torch.Tensor, cluster: torch.Tensor | None = None, unit: str = "") -> Estimate:
        """From values [B]. Samples of one prompt are alike, so with ``cluster`` [B] the prompts' means are what is counted
        (where there is more than one prompt).

        The interval is Student's t over the units; with a single unit it is the value itself. Of a share it is Wilson's
        score interval (1927) with as many samples as the units' spread says that they are worth: it stays within 0 and 1 and has a width
        also where all stand. A share are bools, numbers that are both 0 and 1 and nothing else, and, where ``unit`` says that it is a
        ``share``, also ones alone or zeros alone: without a unit these may be any measure that is the same for all.

        In how many of 100 cases each holds the truth, by the exact law of the number that stand: of 24 that stand with a chance of 0.95,
        Student's 71, a percentile bootstrap's 71, Wilson's 97; of 96, 86, 93 and 97; of 96 with 0.8, 95, 95 and 95.
        """
        from scipy.stats import t as student

        units = values.cpu().double()
        found, samples = set(units.unique().tolist()), len(units)
        share = values.dtype == torch.bool or found == {0.0, 1.0} or (unit == "share" and found <= {0.0, 1.0})
        if cluster is not None:
            _, index = cluster.cpu().unique(return_inverse=True)
            size = torch.zeros(int(index.max()) + 1, dtype=torch.float64).index_add_(0, index, torch.ones_like(units))
            if len(size) > 1:
                units = torch.zeros_like(size).index_add_(0, index, units) / size
        mean, count = units.mean().item(), len(units)
        if count < 2:
            return Estimate(mean, mean, mean)
        quantile, variance = float(student.ppf(0.975, count - 1)), units.var().item() / count
        if share:
            worth = min(max(mean * (1 - mean) / variance, count), samples) if variance > 0 else count
            return Estimate(mean, *_wilson(mean, worth, quantile))
        half = quantile * variance**0.5
        return Estimate(mean, mean - half, mean + half)

    def as_list(self) -> list[float]:
        return [self.mean, self.low, self.high]


def _wilson(share: float, count: float, quantile: float) -> tuple[float, float]:
    """All chances from which a share of ``count`` samples is at most ``quantile`` deviations away."""
    loss = quantile**2 / count
    middle = (share + loss / 2) / (1 + loss)
    half = (loss * share * (1 - share) + loss**2 / 4) ** 0.5 / (1 + loss)
    return max(middle - half, 0.0), min(middle + half, 1.0)


class Evaluator(Protocol):
    """Yields names and values: a tensor [B] of one value a sample (of bool for a share), which gets an interval over prompts, or an
    Estimate of its own.

    One that needs the run (its model, its prompts) has ``attach(run, catalog)``, which is called once.
    """

    def __call__(self, samples: Rollout, base: Rollout) -> Iterable[tuple[str, torch.Tensor | Estimate]]:
        """samples: the policy's; base: the base model's for the same prompts and seeds."""


class BaseDistance:
    """How far the policy has moved: root mean square difference of x0 to the base model's sample of the same seed."""

    def __call__(self, samples: Rollout, base: Rollout) -> Iterator[tuple[str, torch.Tensor | Estimate]]:
        yield "base-distance", (samples.x0 - base.x0).float().square().flatten(1).mean(1).sqrt()


def estimates(scores: Mapping[str, torch.Tensor], group: torch.Tensor, units: Mapping[str, str] | None = None) -> dict[str, Estimate]:
    """Of raw scores [B] by name. units: of those that have one, see :func:`tropism.rewards.base.units`."""
    return {name: Estimate.of(values, group, (units or {}).get(name, "")) for name, values in scores.items()}


def measure(
    samples: Rollout, base: Rollout, evaluators: Iterable[Evaluator], units: Mapping[str, str] | None = None
) -> dict[str, Estimate]:
    """All estimates of a scored set of samples: its raw scores, in their ``units``, then what the evaluators yield."""
    group = samples.cond.group
    found = estimates(samples.scores, group, units)
    for evaluator in evaluators:
        for name, value in evaluator(samples, base):
            found[name] = value if isinstance(value, Estimate) else Estimate.of(value, group)
    return found


def alarms(
    trained: Iterable[tuple[str, float]], watched: Iterable[tuple[str, float]], before: dict[str, Estimate], after: dict[str, Estimate]
) -> list[str]:
    """Signs that the reward is being hacked: a trained reward is better than before beyond its interval, a watched one worse beyond its.

    Both are names with weights, of which only the sign counts: a negative one says that lower is better, 0 that it is not trained on.
    """

    def moved(name: str, weight: float) -> float:
        """1 for better beyond both intervals, -1 for worse, else 0."""
        change = float(after[name].low > before[name].high) - float(after[name].high < before[name].low)
        return change if weight > 0 else -change

    improved = [name for name, weight in trained if weight and moved(name, weight) > 0]
    return [
        f"{', '.join(improved)} improved while {name} {'fell' if weight > 0 else 'rose'} from {before[name].mean:.4g} to "
        f"{after[name].mean:.4g}, beyond both intervals"
        for name, weight in watched
        if improved and name in before and name in after and moved(name, weight) < 0
    ]
