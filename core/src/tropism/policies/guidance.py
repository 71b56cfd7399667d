"""How the outputs of a step's denoiser calls combine into one prediction.

Nearly every pipeline adds them up with constant weights: classifier-free guidance w is (1 - w, w). Two small rules cover the rest: weights
that change with the time, looked up by it, and guidance that is given the size of the conditional output afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from tropism.errors import CaptureRefused

TOLERANCE = 1e-3  # relative; beyond it the pipeline was misunderstood
FRAMES = 512  # an axis longer than this has no weights of its own
Size = Literal["", "vector", "sample"]


@dataclass(frozen=True)
class Guidance:
    """prediction = sum_i weights[i] part_i, then perhaps resized.

    weights: [n], or [T, n] beside ``times`` [T], or [L, n] for the places along ``axis`` (a video's frames). size: ``vector`` gives each
    vector along the last axis the norm of part ``like`` (Lumina 2, Qwen-Image); ``sample`` moves each sample's deviation by ``strength``
    toward that of part ``like`` (arXiv 2305.08891, section 3.4).
    """

    weights: torch.Tensor
    times: torch.Tensor | None = None
    axis: int | None = None
    size: Size = ""
    like: int = 0
    strength: float = 1.0

    def combine(self, parts: Sequence[torch.Tensor], t: torch.Tensor) -> torch.Tensor:
        """The prediction [B, ...] float32 from parts [B, ...] at times t [B]."""
        floats = [part.float() for part in parts]
        if self.axis is not None:
            shape = [-1 if axis == self.axis else 1 for axis in range(floats[0].ndim)]
            along = self.weights.to(t.device).unbind(1)
            total = torch.stack([weight.reshape(shape) * part for weight, part in zip(along, floats, strict=True)]).sum(0)
        elif self.times is None:
            weights = self.weights.tolist()
            if len(floats) == 1 and weights == [1.0]:
                return floats[0]
            total = torch.stack([weight * part for weight, part in zip(weights, floats, strict=True)]).sum(0)
        else:
            nearest = (t[:, None] - self.times.to(t)[None]).abs().argmin(1)
            weight = self.weights.to(t.device)[nearest]  # [B, n]
            stacked = torch.stack(floats, 1)
            total = (weight.reshape(*weight.shape, *[1] * (stacked.ndim - 2)) * stacked).sum(1)
        return total if not self.size else total * _resize(self.size, total, floats[self.like], self.strength)

    def describe(self) -> str:
        if self.times is not None:
            return f"{self.weights.shape[1]} outputs, weights by time"
        if self.axis is not None:
            return f"{self.weights.shape[1]} outputs, weights along axis {self.axis}"
        total = " + ".join(f"{weight:.4g} out{index}" for index, weight in enumerate(self.weights.tolist()))
        return (
            total
            + {"": "", "vector": f", norm of out{self.like}", "sample": f", {self.strength:.3g} deviation of out{self.like}"}[self.size]
        )


def tolerance(weights: torch.Tensor, dtype: torch.dtype) -> float:
    """The replay error that rounding may cause: guidance adds up rounding errors of half-precision outputs."""
    return max(TOLERANCE, 0.5 * torch.finfo(dtype).eps * float(weights.abs().reshape(-1, weights.shape[-1]).sum(1).max()))


def fit_limit(dtype: torch.dtype) -> float:
    """The error that a rule may have on the steps that it is learned from, where the pipeline computes in ``dtype``."""
    return max(TOLERANCE, 4 * torch.finfo(dtype).eps)


def learn(
    parts: Sequence[Sequence[torch.Tensor]], targets: Sequence[torch.Tensor], times: Sequence[torch.Tensor], limit: float
) -> Guidance:
    """Guidance from the parts [n] x [B, ...] and the prediction [B, ...] of each record: the first rule that is exact, or, where rounding
    leaves none exact, the simplest that is nearly as good as the best. Raises CaptureRefused where no rule has an error below ``limit``."""
    tried: list[tuple[float, Guidance]] = []
    for found in _rules(parts, targets, times, limit):
        tried.append((error(found, parts, targets, times), found))
        if tried[-1][0] < TOLERANCE:
            break
    best = min(wrong for wrong, _ in tried)
    if not best < limit:
        raise CaptureRefused(
            f"its denoiser's {len(parts[0])} outputs do not combine into the prediction by a known rule (error {best:.2g})"
        )
    wrong, found = tried[-1] if best < TOLERANCE else next(pair for pair in tried if pair[0] < 2 * best)
    if limit == TOLERANCE:
        return found
    short = replace(found, weights=(found.weights * 100).round() / 100)  # a scale that was typed, before half precision blurred it
    return short if error(short, parts, targets, times) < 1.1 * wrong else found


def _rules(
    parts: Sequence[Sequence[torch.Tensor]], targets: Sequence[torch.Tensor], times: Sequence[torch.Tensor], limit: float
) -> Iterator[Guidance]:
    """The best of every kind, simplest first."""
    yield Guidance(_rounded(_solve(torch.cat([_columns(p) for p in parts]), torch.cat([target.double().flatten() for target in targets]))))
    single = [_solve(_columns(p), target.double().flatten()) for p, target in zip(parts, targets, strict=True)]
    yield Guidance(torch.stack(single).float(), torch.stack([t.reshape(()).float() for t in times]))
    for axis in [axis for axis in range(1, targets[0].ndim) if targets[0].shape[axis] <= FRAMES]:
        along = [
            _solve(torch.cat([_columns([p.select(axis, place) for p in part]) for part in parts]), _flat(targets, axis, place))
            for place in range(targets[0].shape[axis])
        ]
        yield Guidance(torch.stack(along).float(), axis=axis)
    for size, groups in (("vector", (-1,)), ("sample", ())):
        for like in range(len(parts[0])):
            candidate = _resized(size, like, parts, targets, groups, limit)  # type: ignore[arg-type]
            if candidate is not None:
                yield candidate


def error(rule: Guidance, parts: Sequence[Sequence[torch.Tensor]], targets: Sequence[torch.Tensor], times: Sequence[torch.Tensor]) -> float:
    """The largest relative error of the rule over the records."""
    worst = 0.0
    for part, target, t in zip(parts, targets, times, strict=True):
        made = rule.combine(part, t.to(part[0].device).float().reshape(1).expand(len(target)))
        worst = max(worst, relative(made, target))
    return worst


def relative(made: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative error of a prediction against what the pipeline computed."""
    return float((made - truth.float()).norm() / truth.float().norm().clamp(min=1e-12))


def _flat(targets: Sequence[torch.Tensor], axis: int, place: int) -> torch.Tensor:
    return torch.cat([target.select(axis, place).double().flatten() for target in targets])


def _columns(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([part.double().flatten() for part in parts], 1)


def _solve(columns: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    solution: torch.Tensor = torch.linalg.lstsq(columns.cpu(), target.cpu()[:, None], driver="gelsd").solution.flatten()
    return solution


def _rounded(weights: torch.Tensor) -> torch.Tensor:
    """Weights are typed by people: one within rounding of a short number is that number, so that nothing is scaled by 0.9999999."""
    short = (weights * 1e4).round() / 1e4
    return torch.where((weights - short).abs() < 1e-5, short, weights).float()


def _resize(size: str, total: torch.Tensor, like: torch.Tensor, strength: float) -> torch.Tensor:
    if size == "vector":
        norms: torch.Tensor = like.norm(dim=-1, keepdim=True) / total.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return norms
    axes = list(range(1, total.ndim))
    return strength * like.std(axes, keepdim=True) / total.std(axes, keepdim=True) + (1 - strength)


def _resized(
    size: Size, like: int, parts: Sequence[Sequence[torch.Tensor]], targets: Sequence[torch.Tensor], groups: tuple[Any, ...], limit: float
) -> Guidance | None:
    """Weights up to a factor of each vector (or sample), which must then be that of the resizing."""
    ratios, strengths = [], []
    for part, target in zip(parts, targets, strict=True):
        columns = torch.stack([p.double() for p in part], -1)
        columns = columns.flatten(0, -3) if groups else columns.flatten(1, -2)  # [G, d, n]
        goal = target.double().flatten(0, -2) if groups else target.double().flatten(1)
        solved = torch.linalg.lstsq(columns.cpu(), goal.cpu()[..., None], driver="gelsd").solution[..., 0]  # [G, n]
        total = solved.sum(1)
        if not bool((total.abs() > 1e-9).all()):
            return None
        ratios.append(solved / total[:, None])
        if size == "sample":
            weights = ratios[-1].mean(0)
            mixed = torch.stack([w * p.double() for w, p in zip(weights, part, strict=True)]).sum(0)
            axes = list(range(1, mixed.ndim))
            gain = part[like].double().std(axes) / mixed.std(axes)
            strengths.append(((total.to(gain.device) - 1) / (gain - 1)).mean())
    weights = torch.cat(ratios).median(0).values
    if (torch.cat(ratios) - weights).abs().median() > limit * weights.abs().max():
        return None
    sign = 1.0
    if size == "vector":  # the resized prediction may also be turned round
        mixed = torch.stack([w * p.double() for w, p in zip(weights, parts[0], strict=True)]).sum(0)
        sign = -1.0 if float((mixed * targets[0].double()).sum()) < 0 else 1.0
    strength = float(torch.stack(strengths).median()) if strengths else 1.0
    return Guidance(_rounded(sign * weights), size=size, like=like, strength=strength)
