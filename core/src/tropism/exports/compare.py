"""Loaded back, does it give what the trained policy gives? Answered by the evaluation's own sampler on prompts that it did not train on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from tropism.diffusion.noise import sample_seed
from tropism.diffusion.rollout import collect
from tropism.exports import ExportError
from tropism.exports.learned import Learned, denoisers, layers
from tropism.policies.cache import Conditions
from tropism.policy import Policy
from tropism.types import Condition, Level, Tree

ITEMS = 2
# Relative to the size of a prediction. float32: a merged weight rounds once where an adapter rounds twice. Half precision: the rounding of
# every weight, enlarged by guidance (which takes differences of predictions), so many units of the last place.
FLOAT_TOLERANCE, HALF_UNITS = 1e-4, 32
LARGE_SHARE = 0.1  # of the training's effect; more is worth a remark


@dataclass(frozen=True)
class Trace:
    """What the trained policy did: its calls (states, levels, predictions), and the samples [B, ...] that came of them."""

    cond: Condition
    calls: list[tuple[torch.Tensor, Level, torch.Tensor]]
    x0: torch.Tensor


@dataclass(frozen=True)
class Difference:
    """forward: the largest absolute difference of a prediction, on the trained policy's own states; relative: root mean square, relative to
    the predictions; sample: the largest absolute difference of the finished samples; forwards: predictions compared."""

    forward: float
    relative: float
    sample: float
    forwards: int

    @property
    def equal(self) -> bool:
        """Whether all is equal to the bit."""
        return self.forward == 0 and self.sample == 0

    def __str__(self) -> str:
        told = f"{self.forward:.2g} in {self.forwards} forwards ({self.relative:.2g} relative), {self.sample:.2g} in the samples"
        return f"0, bit-equal in {self.forwards} forwards and in the samples" if self.equal else told


class Listener:
    """A policy whose predictions are written down."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.calls = policy, list[tuple[torch.Tensor, Level, torch.Tensor]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        prediction = self.policy.predict(x, level, cond)
        self.calls.append((x.clone(), level, prediction.clone()))
        return prediction


def trace(learned: Learned) -> Trace:
    """Sample the first held-out items with fixed seeds and write down every prediction. Without autocast, as a plain pipeline runs."""
    items = learned.job.heldout_items[:ITEMS]
    encoded = Conditions(learned.policy).encode(items)
    seeds = torch.tensor([sample_seed(0, number) for number in range(len(items))])
    cond = Condition(items=items, encoded=encoded, seed=seeds, group=torch.arange(len(items)))
    listener = Listener(learned.policy)
    return Trace(x0=_sampled(cast(Policy, listener), learned, cond), cond=cond, calls=listener.calls)


def against(truth: Trace, policy: Policy, learned: Learned) -> Difference:
    """Another policy's predictions on the same states, and its own samples, against the trace."""
    encoded = Conditions(policy).encode(truth.cond.items)
    with torch.no_grad():
        gaps = [policy.predict(x, level, encoded) - prediction for x, level, prediction in truth.calls]
    size = sum(prediction.double().square().sum().item() for _, _, prediction in truth.calls)
    error = sum(gap.double().square().sum().item() for gap in gaps)
    x0 = _sampled(policy, learned, replace(truth.cond, encoded=encoded))
    return Difference(max(map(_largest, gaps)), (error / max(size, 1e-30)) ** 0.5, _largest(x0 - truth.x0), len(gaps))


def remark(found: Difference, moved: Difference) -> str:
    """What a reader should know of the two differences; empty where the export is far closer than the base model."""
    if moved.relative == 0:
        return "the trained weights give what the base model gives, so the comparison says nothing"
    share = found.relative / moved.relative
    return f"the rounding is {share:.0%} of what training changed; float32 keeps more of it" if share > LARGE_SHARE else ""


def unit(policy: Policy, stored: torch.dtype | None) -> float:
    """The coarsest unit of the last place among the network's weights and what is stored."""
    kinds = {weight.dtype for weight in policy.trainable().parameters()} | ({stored} if stored else set())
    return max(torch.finfo(kind).eps for kind in kinds)


def judge(found: Difference, exact: bool, unit: float, format: str) -> None:
    """Raise ExportError where the difference is above what format and precision allow; exact: in float32 nothing at all.

    Not so in half precision, where diffusers rounds an adapter to the precision of the network that it is loaded into.
    """
    exact = exact and unit <= torch.finfo(torch.float32).eps
    limit = max(FLOAT_TOLERANCE, HALF_UNITS * unit)
    if (found.equal if exact else found.relative <= limit) and found.sample < float("inf"):
        return
    expected = "0 (bit-equal)" if exact else f"at most {limit:.2g} relative"
    raise ExportError(
        f"the export as '{format}', loaded back, differs from the trained policy: {found}; expected {expected}. Nothing was written.\n"
        "  another --format or --dtype may hold it; if not, please report it with the recipe"
    )


def same_layers(chosen: Any, learned: Learned, base: Any) -> None:
    """Raise ExportError where an adapter has lost or gained layers on its way: one that learned little would hardly differ."""
    if chosen.relation != "adapter":
        return
    for name, network in denoisers(learned.policy).items():
        if odd := layers(network).keys() ^ layers(denoisers(base)[name]).keys():
            raise ExportError(f"loaded back, the adapter of {name} differs in {len(odd)} layers, such as '{min(odd)}'")


def _sampled(policy: Policy, learned: Learned, cond: Condition) -> torch.Tensor:
    steps = learned.recipe.evaluate.steps or learned.recipe.rollout.steps
    return collect(policy, cond, learned.job.evaluation_sampler, steps).x0


def _largest(gap: torch.Tensor) -> float:
    """The largest size in a gap; infinite where it holds what is not a number."""
    return gap.abs().max().item() if bool(gap.isfinite().all()) else float("inf")
