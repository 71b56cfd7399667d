"""Evaluation: samples of held-out prompts with fixed seeds, scored by every reward and evaluator, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    def of(values: torch.Tensor, cluster: torch.Tensor | None = None) -> Estimate:
        """From values [B]. Samples of one prompt are alike, so with ``cluster`` [B] the prompts' means are what is counted
        (where there is more than one prompt).

        The interval is Student's t over the units; with a single unit it is the value itself.
        """
        from scipy.stats import t as student

        units = values.cpu().double()
        if cluster is not None:
            _, index = cluster.cpu().unique(return_inverse=True)
            size = torch.zeros(int(index.max()) + 1, dtype=torch.float64).index_add_(0, index, torch.ones_like(units))
            if len(size) > 1:
                units = torch.zeros_like(size).index_add_(0, index, units) / size
        mean, count = units.mean().item(), len(units)
        half = float(student.ppf(0.975, count - 1)) * (units.std().item() / count**0.5) if count > 1 else 0.0
        return Estimate(mean, mean - half, mean + half)

    def as_list(self) -> list[float]:
        return [self.mean, self.low, self.high]


class Evaluator(Protocol):
    """Yields names and values: a tensor [B] of one value a sample, which gets an interval over prompts, or an Estimate of its own.

    One that needs the run (its model, its prompts) has ``attach(run, catalog)``, which is called once.
    """

    def __call__(self, samples: Rollout, base: Rollout) -> Iterable[tuple[str, torch.Tensor | Estimate]]:
        """samples: the policy's; base: the base model's for the same prompts and seeds."""


class BaseDistance:
    """How far the policy has moved: root mean square difference of x0 to the base model's sample of the same seed."""

    def __call__(self, samples: Rollout, base: Rollout) -> Iterator[tuple[str, torch.Tensor | Estimate]]:
        yield "base-distance", (samples.x0 - base.x0).float().square().flatten(1).mean(1).sqrt()


def measure(samples: Rollout, base: Rollout, evaluators: Iterable[Evaluator]) -> dict[str, Estimate]:
    """All estimates of a scored set of samples: its raw scores, then what the evaluators yield."""
    group = samples.cond.group
    found = {name: Estimate.of(values, group) for name, values in samples.scores.items()}
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
