"""What each argument of a denoiser call is: the noised sample, the time, a condition, or a constant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tropism.errors import CaptureRefused
from tropism.policies.layout import Entrance, Place, entrance, outlet, rows_of
from tropism.policies.record import Arguments, Call, StepRecord, first_tensor, nested
from tropism.types import Tree


@dataclass(frozen=True)
class Clock:
    """How the time enters one argument: slope t + offset, elementwise, so that tokens may have a time of their own.

    slope, offset: [] or [1, ...], one row. dtype: of the argument. None for a Python number.
    """

    name: str
    slope: torch.Tensor
    offset: torch.Tensor
    dtype: torch.dtype

    def value(self, t: torch.Tensor, copies: int) -> torch.Tensor:
        """The argument for times t [B]: [copies B, ...]."""
        stacked = torch.cat([t] * copies)
        slope, offset = self.slope.to(t.device), self.offset.to(t.device)
        value = stacked.reshape(-1, *[1] * (max(slope.ndim, 1) - 1)) * slope + offset
        return (value if self.dtype.is_floating_point else value.round()).to(self.dtype)


@dataclass(frozen=True)
class CallRule:
    """How to make one denoiser call: the role of every argument, learned from watching.

    copies: batches that are stacked for guidance, e.g. 2 for unconditional and conditional halves. slices: of the output that are the
    prediction. squeezed: an axis of length 1 that the prediction lacks.
    """

    module: str
    entrances: tuple[Entrance, ...]
    clocks: tuple[Clock, ...]
    conditions: tuple[str, ...]
    repeated: tuple[str, ...]  # lists with one equal Python value for each row
    constants: Arguments
    copies: int
    slices: tuple[tuple[int, int, int], ...] = ()
    squeezed: int | None = None

    def conditions_of(self, call: Call, batch: int) -> Tree:
        """The condition arguments of a watched call as [B, copies, ...], so that a batch can be cut and joined by sample."""
        found: Tree = {}
        for name in (*self.conditions, *(entering.name for entering in self.entrances if entering.canvas)):
            if name not in call.arguments:
                raise CaptureRefused(f"{self.module} was called without '{name}', which it had before")
            found[name] = _by_sample(call.arguments[name], batch, self.copies, f"argument '{name}' of {self.module}")
        return found

    def keywords(self, x: torch.Tensor, t: torch.Tensor, conditions: Tree, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments for states x [B, ...] at times t [B]."""
        arguments: Arguments = {name: _placed(value, x.device) for name, value in self.constants.items()}
        for name in self.repeated:
            arguments[name] = list(self.constants[name][:1]) * (len(x) * self.copies)
        for entering in self.entrances:
            canvas = _stacked(conditions[entering.name], dtype) if entering.canvas else None
            arguments[entering.name] = entering.value(x, canvas, dtype)
        for clock in self.clocks:
            arguments[clock.name] = clock.value(t, self.copies)
        for name in self.conditions:
            arguments[name] = _stacked(conditions[name], dtype)
        return nested(arguments)

    def parts(self, output: Any) -> list[torch.Tensor]:
        """A call's output by guidance copy, cut to the prediction: ``copies`` tensors [B, ...]."""
        whole = first_tensor(output)
        whole = whole.squeeze(self.squeezed) if self.squeezed is not None else whole
        for axis, begin, length in self.slices:
            whole = whole.narrow(axis, begin, length)
        return list(whole.chunk(self.copies))


def learn(records: Sequence[StepRecord], states: Sequence[torch.Tensor]) -> list[CallRule]:
    """Rules for the calls of a step that calls the same modules in every record.

    states: [B, ...] of each record, as the network is told them. Raises CaptureRefused that names the argument which fits no role.
    """
    return [_rule([record.calls[index] for record in records], records, states) for index in range(len(records[0].calls))]


def readings(rule: CallRule, call: Call, state: torch.Tensor) -> list[CallRule]:
    """The rule with each way of reading the output that has the prediction's shape."""
    shape = tuple(first_tensor(call.output).shape)
    found = [replace(rule, slices=tuple(choice)) for choice in outlet(shape, state.shape, rule.copies)]
    for axis in range(1, len(shape)):
        if shape[axis] == 1 and len(shape) == state.ndim + 1:
            inner = (*shape[:axis], *shape[axis + 1 :])
            found.extend(replace(rule, slices=tuple(choice), squeezed=axis) for choice in outlet(inner, state.shape, rule.copies))
    if not found:
        raise CaptureRefused(f"{rule.module} returns {list(shape)} for {rule.copies} copies of a sample {list(state.shape)}")
    return found


def _rule(calls: list[Call], records: Sequence[StepRecord], states: Sequence[torch.Tensor]) -> CallRule:
    module, batch = calls[0].module, len(states[0])
    names = [name for name in calls[0].arguments if calls[0].arguments[name] is not None]
    values = {name: [call.arguments.get(name) for call in calls] for name in names}
    entrances = [found[0] for name in names if (found := entrance(name, values[name], states)) is not None]
    if not entrances:
        shapes = {name: list(v[0].shape) for name, v in values.items() if isinstance(v[0], torch.Tensor)}
        raise CaptureRefused(f"no argument of {module} is the noised sample {list(states[0].shape)}: {shapes or names}")
    copies = entrances[0].place.copies
    clocks: list[Clock] = []
    conditions: list[str] = []
    repeated: list[str] = []
    constants: Arguments = {}
    for name in names:
        if any(entering.name == name for entering in entrances):
            continue
        if (clock := _clock(name, values[name], records, batch * copies)) is not None:
            clocks.append(clock)
            continue
        if not all(same(value, values[name][0]) for value in values[name]):
            raise CaptureRefused(f"argument '{name}' of {module} changes from step to step, but is neither the sample nor the time")
        value = values[name][0]
        whole = rows_of(value)
        if (whole is not None and len(whole) == batch * copies) or _ragged(value, batch * copies):
            conditions.append(name)
        else:
            constants[name] = value
            if isinstance(value, list) and len(value) == batch * copies and len(value) > 1 and all(same(v, value[0]) for v in value):
                repeated.append(name)
    if not clocks:
        raise CaptureRefused(f"no argument of {module} is the time step: {names}")
    return CallRule(module, tuple(entrances), tuple(clocks), tuple(conditions), tuple(repeated), constants, copies)


def _clock(name: str, values: list[Any], records: Sequence[StepRecord], rows: int) -> Clock | None:
    if not all(isinstance(value, torch.Tensor | int | float) and not isinstance(value, bool) for value in values):
        return None
    tensors = [torch.as_tensor(value).double().cpu() for value in values]
    times = [record.t.double().cpu() for record in records]
    if any(tensor.shape != tensors[0].shape for tensor in tensors) or all(torch.equal(t, tensors[0]) for t in tensors):
        return None
    slope = (tensors[-1] - tensors[0]) / (times[-1] - times[0])
    offset = tensors[0] - slope * times[0]
    dtype = values[0].dtype if isinstance(values[0], torch.Tensor) else torch.float32
    coarse = torch.finfo(dtype).eps if dtype.is_floating_point else 1e-9
    largest = max(float(tensor.abs().max()) for tensor in tensors)
    for tensor, time in zip(tensors, times, strict=True):
        if float((slope * time + offset - tensor).abs().max()) > max(4 * coarse, 1e-6) * largest:
            return None
    if slope.ndim and len(slope) == rows:
        if not (bool((slope == slope[:1]).all()) and bool((offset == offset[:1]).all())):
            return None
        slope, offset = slope[:1], offset[:1]
    return Clock(name, slope.float(), offset.float(), dtype)


def same(a: Any, b: Any) -> bool:
    """Equality that looks into nests and compares tensors by value."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape and torch.equal(a, b)
    if type(a) in (list, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a is b or a == b)


def _ragged(value: Any, rows: int) -> bool:
    """Whether an argument is a list of tensors [length, ...] of different length, one a row."""
    return isinstance(value, list) and len(value) == rows and all(isinstance(row, torch.Tensor) and row.ndim > 0 for row in value)


def _by_sample(value: Any, batch: int, copies: int, what: str) -> Any:
    """[copies B, ...] -> [B, copies, ...]; a list of tensors becomes a padded one beside the lengths of its rows."""
    if len(value) != batch * copies:
        raise CaptureRefused(f"{what} has {len(value)} rows; expected {batch * copies}")
    if isinstance(value, list):
        length = torch.tensor([len(row) for row in value], device=value[0].device)
        padded = torch.nn.utils.rnn.pad_sequence(value, batch_first=True)
        return {"padded": _by_sample(padded, batch, copies, what), "length": _by_sample(length, batch, copies, what)}
    return value.reshape(copies, batch, *value.shape[1:]).transpose(0, 1).contiguous()


def _stacked(value: Any, dtype: torch.dtype) -> Any:
    """The inverse of :func:`_by_sample`, in the network's type."""
    if isinstance(value, dict):
        padded, length = _stacked(value["padded"], dtype), _stacked(value["length"], dtype)
        return [row[:count] for row, count in zip(padded, length.tolist(), strict=True)]
    value = value.transpose(0, 1).flatten(0, 1)
    return value.to(dtype) if value.is_floating_point() else value


def _placed(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if type(value) in (list, tuple):
        return type(value)(_placed(inner, device) for inner in value)
    return value


__all__ = ["CallRule", "Clock", "Place", "learn", "readings", "same"]
