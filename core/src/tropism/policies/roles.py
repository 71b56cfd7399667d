"""What each argument of a denoiser call is: the noised sample, the time, a condition, another network's output, or a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tropism.errors import CaptureRefused
from tropism.policies.conditions import Rows, batch_axis, by_sample, other_axes, same, stacked
from tropism.policies.layout import Entrance, entrance, outlet
from tropism.policies.record import Arguments, Call, StepRecord, first_tensor, mapped, nested, tensors_of
from tropism.types import Tree


@dataclass(frozen=True)
class Clock:
    """How the time enters one argument: slope t + offset, elementwise, so that tokens may have a time of their own.

    slope, offset: [] or [1, ...], one row. dtype: of the argument. divisor: where a pipeline rounds the time to a half precision before it
    divides (FLUX, Qwen-Image): there the order of the two is up to 4 of 1000 steps apart, so it is done in that order.
    """

    name: str
    slope: torch.Tensor
    offset: torch.Tensor
    dtype: torch.dtype
    divisor: float | None = None

    def value(self, t: torch.Tensor, copies: int) -> torch.Tensor:
        """The argument for times t [B]: [copies B, ...]."""
        stacked = torch.cat([t] * copies)
        if self.divisor is not None:
            return stacked.to(self.dtype) / self.divisor
        slope, offset = self.slope.to(t.device), self.offset.to(t.device)
        value = stacked.reshape(-1, *[1] * (max(slope.ndim, 1) - 1)) * slope + offset
        return (value if self.dtype.is_floating_point else value.round()).to(self.dtype)


@dataclass(frozen=True)
class Link:
    """An argument that is another network's output in the same step, perhaps scaled (the residuals of a ControlNet).

    form: the argument as it was seen, for its nest of lists and tuples. places: which tensor of that output each of its tensors is.
    """

    name: str
    call: int
    form: Any
    places: tuple[int, ...]
    factor: float

    def value(self, outputs: Sequence[Any]) -> Any:
        source = tensors_of(outputs[self.call])
        tensors = iter([self.factor * source[place] for place in self.places])
        return mapped(lambda _: next(tensors), self.form)


@dataclass(frozen=True)
class CallRule:
    """How to make one denoiser call: the role of every argument, learned from watching.

    copies: batches that are stacked for guidance, e.g. 2 for unconditional and conditional halves.
    repeated: lists with one equal value for each row. slices: of
    the output that are the prediction. squeezed: an axis of length 1 that the prediction lacks. helps: its output is no prediction but
    goes into a later call.
    """

    module: str
    entrances: tuple[Entrance, ...]
    clocks: tuple[Clock, ...]
    conditions: Mapping[str, Rows]
    repeated: tuple[str, ...]
    constants: Arguments
    copies: int
    links: tuple[Link, ...] = ()
    slices: tuple[tuple[int, int, int], ...] = ()
    squeezed: int | None = None
    helps: bool = False
    processors: Mapping[str, Any] = field(default_factory=dict)  # attention that the pipeline has only while it runs (PAG)
    varying: frozenset[str] = field(default_factory=frozenset)  # conditions whose length differs from item to item

    def conditions_of(self, call: Call, batch: int) -> Tree:
        """The condition arguments of a watched call as [B, copies, ...], so that a batch can be cut and joined by sample."""
        found: Tree = {}
        for name in (*self.conditions, *(entering.name for entering in self.entrances if entering.canvas)):
            value = call.arguments.get(name)
            if value is None and name.endswith("_mask"):  # pipelines drop a mask that masks nothing
                value = torch.ones(call.arguments[name.removesuffix("_mask")].shape[:2], dtype=torch.bool)
            if value is None:
                raise CaptureRefused(f"{self.module} was called without '{name}', which it had before")
            cut = by_sample(value, batch, self.copies, self.conditions.get(name, Rows()), f"argument '{name}' of {self.module}")
            if name in self.varying and isinstance(cut, torch.Tensor):
                cut = {"padded": cut}
                if not self.masked:
                    cut["natural"] = torch.full((batch,), cut["padded"].shape[2], device=cut["padded"].device)
            found[name] = cut
        return found

    @property
    def masked(self) -> bool:
        """Whether a mask says which part of a condition of varying length counts."""
        return any(name.endswith("mask") for name in self.varying)

    def lengths(self, conditions: Tree) -> list[torch.Tensor]:
        """The lengths [B] that samples must share to go through the network together."""
        return [conditions[name]["natural"] for name in sorted(self.varying) if "natural" in conditions[name]]

    def trimmed(self, conditions: Tree) -> Tree:
        """Conditions of samples that share their lengths, without the filling."""
        cut = {**conditions}
        for name in self.varying:
            if "natural" in conditions[name]:
                cut[name] = {"padded": conditions[name]["padded"][:, :, : int(conditions[name]["natural"][0])]}
        return cut

    def keywords(self, x: torch.Tensor, t: torch.Tensor, conditions: Tree, dtype: torch.dtype, outputs: Sequence[Any]) -> dict[str, Any]:
        """Arguments for states x [B, ...] at times t [B]; ``outputs`` are those of the step's earlier calls."""
        arguments: Arguments = dict(self.constants)
        for name in self.repeated:
            arguments[name] = list(self.constants[name][:1]) * (len(x) * self.copies)
        for entering in self.entrances:
            canvas = stacked(conditions[entering.name], dtype, Rows()) if entering.canvas else None
            arguments[entering.name] = entering.value(x, canvas, dtype)
        for clock in self.clocks:
            arguments[clock.name] = clock.value(t, self.copies)
        for name, rows in self.conditions.items():
            arguments[name] = stacked(conditions[name], dtype, rows)
        for link in self.links:
            arguments[link.name] = link.value(outputs)
        return nested(arguments)

    def place(self, device: torch.device) -> None:
        """Move the arguments that never change, once, so that no call waits for a copy."""
        for name, value in self.constants.items():
            self.constants[name] = mapped(lambda tensor: tensor.to(device), value)

    def parts(self, output: Any) -> list[torch.Tensor]:
        """A call's output by guidance copy, cut to the prediction: ``copies`` tensors [B, ...]; none where it only helps."""
        if self.helps:
            return []
        whole = first_tensor(output)
        whole = whole.squeeze(self.squeezed) if self.squeezed is not None else whole
        for axis, begin, length in self.slices:
            whole = whole.narrow(axis, begin, length)
        return list(whole.chunk(self.copies))


def learn(records: Sequence[StepRecord], states: Sequence[torch.Tensor], alone: StepRecord | None) -> list[CallRule]:
    """Rules for the calls of a step that calls the same modules in every record.

    states: [B, ...] of each record, as the network is told them. alone: such a step with one other item, which tells what grows with the
    batch and what with the item. Raises CaptureRefused that names the argument which fits no role.
    """
    rules = [
        _rule(index, [record.calls[index] for record in records], records, states, alone.calls[index] if alone is not None else None)
        for index in range(len(records[0].calls))
    ]
    linked = {link.call for rule in rules for link in rule.links}
    return [replace(rule, helps=index in linked) for index, rule in enumerate(rules)]


def readings(rule: CallRule, call: Call, state: torch.Tensor) -> list[CallRule]:
    """The rule with each way of reading the output that has the prediction's shape."""
    if rule.helps:
        return [rule]
    shape = tuple(first_tensor(call.output).shape)
    found = [replace(rule, slices=tuple(choice)) for choice in outlet(shape, state.shape, rule.copies)]
    for axis in range(1, len(shape)):
        if shape[axis] == 1 and len(shape) == state.ndim + 1:
            inner = (*shape[:axis], *shape[axis + 1 :])
            found.extend(replace(rule, slices=tuple(choice), squeezed=axis) for choice in outlet(inner, state.shape, rule.copies))
    if not found:
        raise CaptureRefused(f"{rule.module} returns {list(shape)} for {rule.copies} copies of a sample {list(state.shape)}")
    return found


def _rule(index: int, calls: list[Call], records: Sequence[StepRecord], states: Sequence[torch.Tensor], alone: Call | None) -> CallRule:
    module, batch = calls[0].module, len(states[0])
    names = list(calls[0].arguments)
    values = {name: [call.arguments.get(name) for call in calls] for name in names}
    entrances = [found[0] for name in names if (found := entrance(name, values[name], states)) is not None]
    if not entrances:
        shapes = {name: list(v[0].shape) for name, v in values.items() if isinstance(v[0], torch.Tensor)}
        raise CaptureRefused(f"no argument of {module} is the noised sample {list(states[0].shape)}: {shapes or names}")
    copies = entrances[0].place.copies
    clocks: list[Clock] = []
    links: list[Link] = []
    conditions: dict[str, Rows] = {}
    repeated: list[str] = []
    varying: set[str] = set()
    constants: Arguments = {}
    for name in names:
        if any(entering.name == name for entering in entrances):
            continue
        value = values[name][0]
        if (clock := _clock(name, values[name], records, batch * copies)) is not None:
            clocks.append(clock)
        elif not all(same(other, value) for other in values[name]):
            link = _link(name, values[name], [record.calls[:index] for record in records])
            if link is None:
                raise CaptureRefused(f"argument '{name}' of {module} changes from step to step, but is neither the sample nor the time")
            links.append(link)
        elif (rows := batch_axis(value, alone.arguments.get(name) if alone is not None else None, batch, copies)) is None:
            other = alone.arguments.get(name) if alone is not None else value
            if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor) and other.shape != value.shape:
                conditions[name] = Rows(shared=True)  # positions of the text's tokens: as long as the text
                varying.add(name)
                continue
            constants[name] = value
        elif _plain(value):
            constants[name] = value
            repeated.append(name)
        else:
            conditions[name] = rows
            if alone is not None and other_axes(alone.arguments.get(name), rows) != other_axes(value, rows):
                varying.add(name)
    if not clocks:
        raise CaptureRefused(f"no argument of {module} is the time step: {names}")
    return CallRule(
        module, tuple(entrances), tuple(clocks), conditions, tuple(repeated), constants, copies, tuple(links), varying=frozenset(varying)
    )


def _plain(value: Any) -> bool:
    """Whether an argument is a list with one equal value for each row, and no condition."""
    return isinstance(value, list) and not any(isinstance(v, torch.Tensor | int) for v in value) and all(same(v, value[0]) for v in value)


def _clock(name: str, values: list[Any], records: Sequence[StepRecord], rows: int) -> Clock | None:
    if not all(isinstance(value, torch.Tensor | int | float) and not isinstance(value, bool) for value in values):
        return None
    tensors = [torch.as_tensor(value).double().cpu() for value in values]
    times = [record.t.double().cpu() for record in records]
    if any(tensor.shape != tensors[0].shape for tensor in tensors) or all(torch.equal(t, tensors[0]) for t in tensors):
        return None
    first = values[0]
    if isinstance(first, torch.Tensor) and first.dtype in (torch.bfloat16, torch.float16) and first.ndim <= 1:
        for divisor in (1.0, 1000.0):
            if all(bool((record.t.to(first) / divisor == value).all()) for record, value in zip(records, values, strict=True)):
                return Clock(name, torch.tensor(1 / divisor), torch.tensor(0.0), first.dtype, divisor)
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


def _link(name: str, values: list[Any], earlier: Sequence[Sequence[Call]]) -> Link | None:
    """The earlier call of the step whose output an argument is, up to a factor that is the same in every record."""
    wanted = [tensors_of(value) for value in values]
    for index in range(len(earlier[0])):
        given = [tensors_of(calls[index].output) for calls in earlier]
        places = tuple(
            next(
                (place for place, source in enumerate(given[0]) if source.shape == tensor.shape and _ratio(tensor, source) is not None), -1
            )
            for tensor in wanted[0]
        )
        if not places or -1 in places:
            continue
        factors = [_ratio(t, g[place]) for w, g in zip(wanted, given, strict=True) for t, place in zip(w, places, strict=True)]
        first = factors[0]
        if first is not None and all(factor is not None and abs(factor - first) < 1e-4 * abs(first) for factor in factors):
            return Link(name, index, values[0], places, first)
    return None


def _ratio(tensor: torch.Tensor, source: torch.Tensor) -> float | None:
    a, b = tensor.double(), source.double()
    factor = (a * b).sum() / b.square().sum().clamp(min=1e-30)
    return factor.item() if factor != 0 and (a - factor * b).norm() <= 1e-4 * a.norm() else None
