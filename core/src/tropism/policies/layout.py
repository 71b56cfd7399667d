"""Where the noised sample stands in a denoiser's argument, and the prediction in its output.

The state may be stacked for guidance, joined with other channels or tokens, have an axis more, be a list with one tensor a sample, or fill
only part of an argument whose rest stays as it is (the first frame of an image-to-video model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Place:
    """The part of a tensor [rows, ...] that is a state [B, ...], stacked ``copies`` times.

    axis, begin, length: the slice of one axis, None for the whole. extra: an axis of length 1 that the state lacks.
    """

    copies: int
    axis: int | None = None
    begin: int = 0
    length: int = 0
    extra: int | None = None

    def get(self, whole: torch.Tensor) -> torch.Tensor:
        """The state's part [rows, ...] of a tensor."""
        part = whole.squeeze(self.extra) if self.extra is not None else whole
        return part if self.axis is None else part.narrow(self.axis, self.begin, self.length)

    def put(self, state: torch.Tensor, canvas: torch.Tensor | None) -> torch.Tensor:
        """The tensor with the stacked state [rows, ...] in its place; ``canvas`` holds the rest, if there is any."""
        if self.axis is not None and canvas is not None:
            flat = canvas.squeeze(self.extra) if self.extra is not None else canvas
            end = self.begin + self.length
            before, after = flat.narrow(self.axis, 0, self.begin), flat.narrow(self.axis, end, flat.shape[self.axis] - end)
            state = torch.cat([before.to(state), state, after.to(state)], self.axis)
        return state.unsqueeze(self.extra) if self.extra is not None else state


@dataclass(frozen=True)
class Order:
    """How the network arranges the values of a state that its scheduler keeps in another shape (frames in the batch, packed tokens).

    shape: [...] of one sample as the network has it. free: bool [n], its values that are the state's; the others are part of the
    condition (the first frame of an image-to-video model). index: where each free value stands in the scheduler's.
    """

    shape: tuple[int, ...]
    free: torch.Tensor
    index: torch.Tensor

    def network(self, x: torch.Tensor, batch: int) -> torch.Tensor:
        """The scheduler's shape -> [B, ...] as the network has it, with zeros where the values are not the state's."""
        flat = x.reshape(batch, -1)
        whole = flat.new_zeros(batch, len(self.free))
        whole[:, self.free.to(x.device)] = flat[:, self.index.to(x.device)]
        return whole.reshape(batch, *self.shape)

    def scheduler(self, x: torch.Tensor, like: torch.Size) -> torch.Tensor:
        """The inverse, for a scheduler that keeps ``like`` for one sample."""
        flat = x.reshape(len(x), -1)[:, self.free.to(x.device)][:, self.index.argsort().to(x.device)]
        return flat.reshape(len(x) * like[0], *like[1:])

    def only_state(self, part: torch.Tensor) -> torch.Tensor:
        """A prediction [B, ...] with zeros where the values are not the state's."""
        return part * self.free.reshape(self.shape).to(part) if not bool(self.free.all()) else part


def order(values: Sequence[Any], states: Sequence[torch.Tensor], batch: int) -> Order | None:
    """How an argument arranges the states' values, if it holds all of them in another order, once or stacked; else None."""
    wholes = [whole for value in values if (whole := rows_of(value)) is not None and whole.is_floating_point()]
    if len(wholes) < max(2, len(values)) or any(whole.shape != wholes[0].shape or len(whole) % batch for whole in wholes):
        return None
    rows = torch.stack([whole[:batch].reshape(batch, -1).double().cpu() for whole in wholes])  # [records, B, n]
    flat = torch.stack([state.reshape(batch, -1).double().cpu() for state in states])
    free = torch.ones(rows.shape[2], dtype=torch.bool)
    if rows.shape[2] > flat.shape[2]:
        free = (rows != rows[:1]).any(0).any(0)
    if int(free.sum()) != flat.shape[2]:
        return None
    index = torch.empty(flat.shape[2], dtype=torch.long)
    index[rows[0, 0, free].argsort()] = flat[0, 0].argsort()
    if any(_factor(row[:, free], state[:, index]) is None for row, state in zip(rows, flat, strict=True)):
        return None
    return Order(tuple(wholes[0].shape[1:]), free, index)


@dataclass(frozen=True)
class Entrance:
    """How the state enters one argument: its place, whether the argument is a list of rows, and which elements stay as they are."""

    name: str
    place: Place
    listed: bool = False
    frozen: torch.Tensor | None = None  # bool, one row of the place's part

    @property
    def canvas(self) -> bool:
        """Whether the argument holds anything but the state."""
        return self.place.axis is not None or self.frozen is not None

    def value(self, x: torch.Tensor, canvas: torch.Tensor | None, dtype: torch.dtype) -> Any:
        """The argument for states x [B, ...]; ``canvas`` [rows, ...] as it was seen, where there is one."""
        state = torch.cat([x] * self.place.copies).to(dtype)
        if self.frozen is not None and canvas is not None:
            state = torch.where(self.frozen.to(x.device), self.place.get(canvas).to(dtype), state)
        whole = self.place.put(state, canvas)
        return list(whole.unbind(0)) if self.listed else whole


def rows_of(value: Any) -> torch.Tensor | None:
    """An argument as one tensor [rows, ...]: a tensor itself, or a list of equal ones stacked; None for anything else."""
    if isinstance(value, torch.Tensor):
        return value if value.ndim > 0 else None
    if isinstance(value, list) and value and all(isinstance(v, torch.Tensor) and v.shape == value[0].shape for v in value):
        return torch.stack(value)
    return None


def entrance(name: str, values: Sequence[Any], states: Sequence[torch.Tensor]) -> tuple[Entrance, list[float]] | None:
    """How the states enter an argument, and the factor on them in each record; None where they do not.

    values: the argument in every record. states: [B, ...] in every record.
    """
    wholes = [rows_of(value) for value in values]
    if any(whole is None or whole.shape != wholes[0].shape for whole in wholes):  # type: ignore[union-attr]
        return None
    tensors = [whole for whole in wholes if whole is not None]
    if not tensors[0].is_floating_point():
        return None
    listed = isinstance(values[0], list)
    for place in places(tensors[0].shape, states[0].shape):
        parts = [place.get(whole) for whole in tensors]
        goals = [torch.cat([state] * place.copies) for state in states]
        factors = [_factor(part, goal) for part, goal in zip(parts, goals, strict=True)]
        if all(factor is not None for factor in factors):
            return Entrance(name, place, listed), [float(factor or 0) for factor in factors]
        frozen = _frozen(parts)
        if frozen is None:
            continue
        factors = [_factor(part[~frozen], goal[~frozen]) for part, goal in zip(parts, goals, strict=True)]
        if all(factor is not None for factor in factors) and bool((frozen == frozen[:1]).all()):
            return Entrance(name, place, listed, frozen[:1]), [float(factor or 0) for factor in factors]
    return None


def places(whole: Sequence[int], state: Sequence[int]) -> list[Place]:
    """Where a state of shape [B, ...] could stand in a tensor of shape [rows, ...], likeliest first."""
    if not whole or whole[0] % state[0]:
        return []
    copies, found = whole[0] // state[0], list[Place]()
    shapes: list[tuple[list[int], int | None]] = [(list(whole), None)]
    if len(whole) == len(state) + 1:
        shapes = [([*whole[:axis], *whole[axis + 1 :]], axis) for axis in range(1, len(whole)) if whole[axis] == 1]
    for shape, extra in shapes:
        if len(shape) != len(state):
            continue
        odd = [axis for axis in range(1, len(state)) if shape[axis] != state[axis]]
        if not odd:
            found.append(Place(copies, extra=extra))
        elif len(odd) == 1 and shape[odd[0]] > state[odd[0]]:
            axis = odd[0]
            last = shape[axis] - state[axis]
            found.extend(Place(copies, axis, begin, state[axis], extra) for begin in (0, last))
    return found


def outlet(output: Sequence[int], state: Sequence[int], copies: int) -> list[list[tuple[int, int, int]]]:
    """Which slices (axis, begin, length) of an output of shape [rows, ...] may be the prediction for ``copies`` stacked states."""
    if len(output) != len(state) or output[0] != copies * state[0]:
        return []
    choices: list[list[tuple[int, int, int]]] = [[]]
    for axis in range(1, len(state)):
        if output[axis] < state[axis]:
            return []
        if output[axis] > state[axis]:
            begins = (0, output[axis] - state[axis])
            choices = [[*choice, (axis, begin, state[axis])] for choice in choices for begin in begins]
    return choices


def _factor(part: torch.Tensor, state: torch.Tensor) -> float | None:
    """The factor c for which part = c state, as exactly as the part's type can hold it."""
    a, b = part.double(), state.double()
    size = b.square().sum()
    if size == 0 or part.numel() == 0:
        return None
    factor = (a * b).sum() / size
    limit = max(1e-4, 4 * torch.finfo(part.dtype).eps)
    return factor.item() if factor.abs() > 1e-6 and (a - factor * b).norm() <= limit * a.norm() else None


def _frozen(parts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Elements that are the same in every record, where some but not all are."""
    same = torch.stack([part == parts[0] for part in parts]).all(0)
    return same if 0 < int(same.sum()) < same.numel() else None
