"""Conditions of a watched call, cut by sample and put together again.

Networks take a batch of conditions stacked for guidance, sometimes along another axis than the first, as lists, padded, or repeated for
every frame. Between calls each sample keeps its own rows [B, copies, ...], so that batches can be cut, joined and cached at will.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tropism.errors import CaptureRefused


@dataclass(frozen=True)
class Rows:
    """Which axis of a condition is the batch, and how many rows each sample has there in one copy (a text repeated for every frame)."""

    axis: int = 0
    fold: int = 1
    shared: bool = False  # no batch at all, but of a length that the item decides
    parts: tuple[Rows, ...] = ()  # of each tensor of a list (an adapter's features of several sizes)


def batch_axis(value: Any, alone: Any, batch: int, copies: int) -> Rows | None:
    """Where the batch is in an argument; None where it is the same whatever the batch."""
    if _several(value, batch * copies):
        others = alone if isinstance(alone, list | tuple) and len(alone) == len(value) else [None] * len(value)
        parts = [batch_axis(part, other, batch, copies) for part, other in zip(value, others, strict=True)]
        return Rows(parts=tuple(part for part in parts if part is not None)) if None not in parts else None
    if not isinstance(value, torch.Tensor | list) or (isinstance(value, torch.Tensor) and value.ndim == 0) or len(value) == 0:
        return None
    if batch == 1 or alone is None:  # a mask that is left out for one item says nothing
        return Rows() if len(value) == batch * copies else None
    if isinstance(value, list):
        return Rows() if isinstance(alone, list) and len(alone) * batch == len(value) == batch * copies else None
    if not isinstance(alone, torch.Tensor) or alone.ndim != value.ndim:
        return None
    for axis in range(value.ndim):
        size = value.shape[axis]
        if alone.shape[axis] * batch == size and size % (batch * copies) == 0:
            return Rows(axis, size // (batch * copies))
    return None


def _several(value: Any, rows: int) -> bool:
    """Whether a list holds tensors that each have all rows, and not one tensor for each row."""
    if not isinstance(value, list | tuple) or not value or not all(isinstance(part, torch.Tensor) and part.ndim > 0 for part in value):
        return False
    return len(value) != rows or (len({part.shape[1:] for part in value}) > 1 and all(len(part) == rows for part in value))


def other_axes(value: Any, rows: Rows) -> tuple[int, ...] | None:
    """The sizes of a tensor's other axes."""
    return tuple(value.movedim(rows.axis, 0).shape[1:]) if isinstance(value, torch.Tensor) else None


def same(a: Any, b: Any) -> bool:
    """Equality that looks into nests and compares tensors by value."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape and torch.equal(a, b)
    if type(a) in (list, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a is b or a == b)


def by_sample(value: Any, batch: int, copies: int, rows: Rows, what: str) -> Any:
    """[copies B fold, ...] -> [B, copies fold, ...]; a list of tensors becomes a padded one beside the lengths of its rows."""
    if rows.parts:
        parts = zip(value, rows.parts, strict=True)
        return {f"part{index}": by_sample(part, batch, copies, inner, what) for index, (part, inner) in enumerate(parts)}
    if rows.shared:
        return value.expand(batch, 1, *value.shape)
    value, fold = (value.movedim(rows.axis, 0), rows.fold) if isinstance(value, torch.Tensor) else (value, rows.fold)
    if len(value) != batch * copies * fold:
        raise CaptureRefused(f"{what} has {len(value)} rows; expected {batch * copies * fold}")
    if isinstance(value, list) and isinstance(value[0], torch.Tensor):
        length = torch.tensor([len(row) for row in value], device=value[0].device)
        padded = torch.nn.utils.rnn.pad_sequence(value, batch_first=True)
        return {"padded": by_sample(padded, batch, copies, rows, what), "length": by_sample(length, batch, copies, rows, what)}
    if isinstance(value, list):
        return {"numbers": by_sample(torch.tensor(value), batch, copies, rows, what)}
    shape = value.shape[1:]
    return value.reshape(copies, batch, fold, *shape).transpose(0, 1).reshape(batch, copies * fold, *shape).contiguous()


def stacked(value: Any, dtype: torch.dtype, rows: Rows) -> Any:
    """The inverse of :func:`by_sample`, in the network's type."""
    if rows.parts:
        return [stacked(value[f"part{index}"], dtype, inner) for index, inner in enumerate(rows.parts)]
    if isinstance(value, dict):
        inner = {key: stacked(tensor, dtype, rows) for key, tensor in value.items() if key != "natural"}
        if "length" in inner:
            return [row[:count] for row, count in zip(inner["padded"], inner["length"].tolist(), strict=True)]
        return inner["padded"] if "padded" in inner else inner["numbers"].tolist()
    if rows.shared:
        return value[0, 0]
    batch, shape = len(value), value.shape[2:]
    value = value.reshape(batch, -1, rows.fold, *shape).transpose(0, 1).reshape(-1, *shape).movedim(0, rows.axis)
    return value.to(dtype) if value.is_floating_point() else value
