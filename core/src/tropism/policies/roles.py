"""What each argument of a denoiser call is: the noised sample, the time, a condition, or a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tropism.errors import CaptureRefused
from tropism.policies.record import Arguments, Call, StepRecord, nested

TOLERANCE = 1e-3  # relative; a replay beyond it means that the pipeline was misunderstood


def tolerance(mixture: list[float], dtype: torch.dtype) -> float:
    """The replay error that rounding may cause: guidance adds up rounding errors of half-precision outputs."""
    return max(TOLERANCE, torch.finfo(dtype).eps * sum(abs(weight) for weight in mixture))


@dataclass(frozen=True)
class CallRule:
    """How to make one denoiser call: the role of every argument, learned from watching.

    repeats: copies of the batch that are stacked for guidance, e.g. 2 for unconditional and conditional halves.
    """

    module: str
    sample: str
    time: str
    conditions: tuple[str, ...]
    constants: Arguments
    repeats: int

    def conditions_of(self, call: Call) -> dict[str, torch.Tensor]:
        """The condition arguments of a watched call as [B, repeats, ...], so that a batch can be cut and joined by sample."""
        return {name: _by_sample(call.arguments[name], self.repeats) for name in self.conditions}

    def keywords(self, x: torch.Tensor, t: torch.Tensor, conditions: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, Any]:
        """Arguments for states x [B, ...] at times t [B]."""
        arguments = {name: value.to(x.device) if isinstance(value, torch.Tensor) else value for name, value in self.constants.items()}
        arguments[self.sample] = torch.cat([x] * self.repeats).to(dtype)
        arguments[self.time] = torch.cat([t] * self.repeats)
        for name in self.conditions:
            value = conditions[name].transpose(0, 1).flatten(0, 1)
            arguments[name] = value.to(dtype) if value.is_floating_point() else value
        return nested(arguments)


def learn(records: list[StepRecord]) -> list[CallRule]:
    """Rules for the calls of a step. Raises CaptureRefused that names the argument which fits no role."""
    counts = {tuple(call.module for call in record.calls) for record in records}
    if len(counts) != 1 or () in counts:
        raise CaptureRefused(f"the calls of a denoising step differ from step to step or are missing: {sorted(counts)}")
    return [_rule(records, index) for index in range(len(records[0].calls))]


def chunks(output: torch.Tensor, repeats: int, channels: int) -> list[torch.Tensor]:
    """A call's output by guidance copy, learned-variance channels dropped: ``repeats`` tensors [B, ...]."""
    return [part[:, :channels] if part.shape[1] == 2 * channels else part for part in output.chunk(repeats)]


def mixture(records: list[StepRecord], rules: list[CallRule]) -> torch.Tensor:
    """Coefficients by which the outputs combine into the prediction (guidance), by least squares in float64."""
    terms, targets = [], []
    for record in records:
        parts = _outputs(record, rules)
        terms.append(torch.stack([part.double().flatten() for part in parts], 1))
        targets.append(record.prediction.double().flatten())
    solution: torch.Tensor = torch.linalg.lstsq(torch.cat(terms), torch.cat(targets)[:, None]).solution.flatten()
    return solution


def replay_error(record: StepRecord, prediction: torch.Tensor) -> float:
    """Relative error of a prediction against what the pipeline computed."""
    truth = record.prediction.float()
    return float((prediction - truth).norm() / truth.norm().clamp(min=1e-12))


def _outputs(record: StepRecord, rules: list[CallRule]) -> list[torch.Tensor]:
    channels = record.prediction.shape[1]
    return [part for call, rule in zip(record.calls, rules, strict=True) for part in chunks(call.output, rule.repeats, channels)]


def _rule(records: list[StepRecord], index: int) -> CallRule:
    calls = [record.calls[index] for record in records]
    batch, first = len(records[0].x), calls[0]
    sample: str | None = None
    time: str | None = None
    repeats = 1
    conditions: list[str] = []
    constants: Arguments = {}
    for name in first.arguments:
        values = [call.arguments.get(name) for call in calls]
        if sample is None and (copies := _copies(values, records)) > 0:
            sample, repeats = name, copies
        elif time is None and _is_time(values, records):
            time = name
        elif isinstance(values[0], torch.Tensor):
            if not all(isinstance(v, torch.Tensor) and torch.equal(v, values[0]) for v in values):
                raise CaptureRefused(
                    f"argument '{name}' of {first.module} changes from step to step, but is neither the sample nor the time"
                )
            if values[0].ndim > 0 and len(values[0]) % batch == 0:
                conditions.append(name)
            else:
                constants[name] = values[0]
        else:
            constants[name] = values[0]
    if sample is None or time is None:
        raise CaptureRefused(
            f"no argument of {first.module} is {'the noised sample' if sample is None else 'the time step'}: {list(first.arguments)}"
        )
    for name in conditions:
        if len(first.arguments[name]) != batch * repeats:
            raise CaptureRefused(f"argument '{name}' of {first.module} has {len(first.arguments[name])} rows; expected {batch * repeats}")
    return CallRule(first.module, sample, time, tuple(conditions), constants, repeats)


def _copies(values: list[Any], records: list[StepRecord]) -> int:
    """How many copies of the state the argument stacks; 0 if it is something else."""
    shape = records[0].x.shape
    if not isinstance(values[0], torch.Tensor) or values[0].shape[1:] != shape[1:] or len(values[0]) % len(records[0].x):
        return 0
    copies = len(values[0]) // shape[0]
    same = all(
        torch.allclose(v.float(), torch.cat([r.x] * copies).float(), rtol=1e-4, atol=1e-5) for v, r in zip(values, records, strict=True)
    )
    return copies if same else 0


def _is_time(values: list[Any], records: list[StepRecord]) -> bool:
    if not isinstance(values[0], torch.Tensor | int | float) or isinstance(values[0], bool):
        return False
    return all(bool((torch.as_tensor(v).double() == r.t.double()).all()) for v, r in zip(values, records, strict=True))


def _by_sample(value: torch.Tensor, repeats: int) -> torch.Tensor:
    return value.reshape(repeats, -1, *value.shape[1:]).transpose(0, 1).contiguous()
