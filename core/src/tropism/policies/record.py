"""Watch a diffusers pipeline work: which modules it calls in each denoising step, with what, and what it hands to its scheduler.

Nothing of the pipeline is changed for good: its scheduler is replaced by a copy while it is watched, hooks are removed afterwards, and a
generator of our own keeps the global random state as it was.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tropism.errors import CaptureRefused

Arguments = dict[str, Any]  # a call's arguments by name, nested dicts flattened to "outer.inner"


@dataclass
class Call:
    """One call of one module: its arguments by name and its first output."""

    module: str
    arguments: Arguments
    output: torch.Tensor


@dataclass
class StepRecord:
    """One denoising step: the calls made since the step before, and what the scheduler was given."""

    calls: list[Call]
    prediction: torch.Tensor  # [B, ...] after guidance
    t: torch.Tensor  # []
    x: torch.Tensor  # [B, ...] the state before the step


@dataclass
class Recording:
    """Everything seen; ``pending`` are calls that no scheduler step has followed yet."""

    steps: list[StepRecord] = field(default_factory=list)
    pending: list[Call] = field(default_factory=list)

    def denoising(self) -> list[StepRecord]:
        """The steps with only the calls that recur: text encoders, called once before the loop, drop out."""
        recurring = {call.module for record in self.steps[1:] for call in record.calls}
        return [
            StepRecord([call for call in record.calls if call.module in recurring], record.prediction, record.t, record.x)
            for record in self.steps
        ]


class Enough(Exception):
    """Raised inside a watched pipeline to end it once the first denoiser call has been seen."""


@contextmanager
def watch(pipe: Any, *, stop_at: str | None = None) -> Iterator[Recording]:
    """Record ``pipe`` for the length of the block; the first call of the module ``stop_at`` raises :class:`Enough` before it runs."""
    recording, original, bar = Recording(), pipe.scheduler, getattr(pipe, "_progress_bar_config", None)
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    hooks = []
    for name, module in modules.items():
        if name == stop_at:
            hooks.append(module.register_forward_pre_hook(functools.partial(_stop, recording, name), with_kwargs=True))
        hooks.append(module.register_forward_hook(functools.partial(_seen, recording, name), with_kwargs=True))
    pipe.scheduler = _watched(original, recording)
    pipe.set_progress_bar_config(disable=True)
    try:
        yield recording
    finally:
        pipe.scheduler = original
        pipe.set_progress_bar_config(**(bar or {}))
        for hook in hooks:
            hook.remove()


def named(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """A call's arguments under their names, nested dicts flattened."""
    flat: Arguments = {}
    for key, value in inspect.signature(module.forward).bind(*args, **kwargs).arguments.items():
        if key == "kwargs" and isinstance(value, dict):
            flat.update(value)
        elif isinstance(value, dict):
            flat.update({f"{key}.{inner}": item for inner, item in value.items()})
        else:
            flat[key] = value
    return flat


def nested(arguments: Arguments) -> dict[str, Any]:
    """The inverse of :func:`named`: keyword arguments for the module."""
    kwargs: dict[str, Any] = {}
    for key, value in arguments.items():
        outer, dot, inner = key.partition(".")
        if dot:
            kwargs.setdefault(outer, {})[inner] = value
        else:
            kwargs[key] = value
    return kwargs


def first_tensor(output: Any) -> torch.Tensor:
    """The tensor that a denoiser returns, whether bare, in a tuple or in an output record."""
    if isinstance(output, torch.Tensor):
        return output
    first = output[0] if not hasattr(output, "sample") else output.sample
    if not isinstance(first, torch.Tensor):
        raise CaptureRefused(f"a denoiser returned {type(first).__name__}; expected a tensor")
    return first


def _seen(recording: Recording, name: str, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    try:
        out = first_tensor(output)
    except (CaptureRefused, KeyError, IndexError, TypeError):
        return  # not a denoiser: it returns no tensor
    recording.pending.append(Call(name, _detached(named(module, args, kwargs)), out.detach().clone()))


def _stop(recording: Recording, name: str, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
    recording.pending.append(Call(name, _detached(named(module, args, kwargs)), torch.empty(0)))
    raise Enough


def _detached(arguments: Arguments) -> Arguments:
    return {key: value.detach().clone() if isinstance(value, torch.Tensor) else value for key, value in arguments.items()}


def _watched(scheduler: Any, recording: Recording) -> Any:
    """A copy of the scheduler whose ``step`` records. functools.wraps keeps the signature that pipelines inspect."""
    watched = copy.deepcopy(scheduler)
    original = watched.step

    @functools.wraps(original)
    def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls, recording.pending = recording.pending, []
        t = torch.as_tensor(timestep).detach().clone()
        recording.steps.append(StepRecord(calls, model_output.detach().clone(), t, sample.detach().clone()))
        return original(model_output, timestep, sample, *args, **kwargs)

    watched.step = step
    return watched
