"""Watch a diffusers pipeline work: which modules it calls in each denoising step, with what, and what it hands to its scheduler.

Nothing of the pipeline is changed for good: while it is watched its scheduler is a copy and its modules have another ``forward``; both are
put back afterwards, and the global random state is kept. A module may be *answered for*: then it is not run, and what it returns is noise
in the form of an output that it gave before. That makes a look at a pipeline cheap: its loop runs, its networks do not.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch

from tropism.errors import CaptureRefused

Arguments = dict[str, Any]  # a call's arguments by name, nested dicts flattened to "outer.inner"


@dataclass
class Call:
    """One call of one module: its arguments by name and what it returned."""

    module: str
    arguments: Arguments
    output: Any
    processors: dict[str, Any] = field(default_factory=dict)  # the module's attention processors, by name


@dataclass
class StepRecord:
    """One denoising step: the calls made since the step before, and what the scheduler was given."""

    calls: list[Call]
    prediction: torch.Tensor  # [B, ...] after guidance
    t: torch.Tensor  # []
    x: torch.Tensor  # [B, ...] the state before the step
    index: int  # where ``t`` stands among the scheduler's times
    after: torch.Tensor  # [B, ...] the state that the scheduler returned

    def signature(self) -> tuple[str, ...]:
        return tuple(call.module for call in self.calls)


@dataclass
class Recording:
    """Everything seen. ``scheduler`` is the copy that the pipeline used, with its times and noise levels."""

    scheduler: Any
    steps: list[StepRecord] = field(default_factory=list)
    pending: list[Call] = field(default_factory=list)
    begun: bool = False  # whether the scheduler has taken a step

    def denoising(self, known: Collection[str] = ()) -> list[StepRecord]:
        """The steps with only the ``known`` modules, or else with those that are called again after the first step: encoders, called
        before the loop, drop out."""
        recurring = known or {call.module for record in self.steps[1:] for call in record.calls}
        for record in self.steps:
            record.calls = [call for call in record.calls if call.module in recurring]
        return self.steps


@dataclass
class Watch:
    """How a pipeline is watched.

    answers: a call of each module that is not to be run, whose output says in which form to answer. ending: what every scheduler step
    returns instead of its own next state. memory: outputs of modules called before the first step; filled when empty, used when not.
    """

    answers: dict[str, Call] = field(default_factory=dict)
    ending: torch.Tensor | None = None
    memory: dict[str, list[Any]] | None = None

    @contextmanager
    def __call__(self, pipe: Any) -> Iterator[Recording]:
        original, bar = pipe.scheduler, getattr(pipe, "_progress_bar_config", None)
        recording = Recording(copy.deepcopy(original))
        replay = self.memory is not None and len(self.memory) > 0
        modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
        own = {name: vars(module).get("forward") for name, module in modules.items()}
        hooks = {name: _without_hooks(modules[name]) for name in self.answers if name in modules}
        told: dict[str, int] = {}
        for name, module in modules.items():
            module.forward = self._spy(name, module, recording, told, replay)
        pipe.scheduler = _watched(recording, self.ending)
        pipe.set_progress_bar_config(disable=True)
        try:
            with torch.random.fork_rng(devices=[]):
                yield recording
        finally:
            pipe.scheduler = original
            pipe.set_progress_bar_config(**(bar or {}))
            for name, (before, after) in hooks.items():
                modules[name]._forward_pre_hooks, modules[name]._forward_hooks = before, after
            for name, module in modules.items():
                if own[name] is None:
                    del module.forward
                else:
                    vars(module)["forward"] = own[name]

    def _spy(self, name: str, module: torch.nn.Module, recording: Recording, told: dict[str, int], replay: bool) -> Callable[..., Any]:
        forward = module.forward
        signature = inspect.signature(forward)

        @functools.wraps(forward)
        def spy(*args: Any, **kwargs: Any) -> Any:
            arguments = named(signature, args, kwargs)
            # Before the call, for some networks empty the lists that they are given. A run that only has to end somewhere teaches nothing.
            given = detached(arguments) if self.ending is None else {}
            before = not recording.begun and name not in self.answers
            if before and replay and name in (self.memory or {}):
                told[name] = told.get(name, -1) + 1
                output = (self.memory or {})[name][told[name]]
            elif name in self.answers:
                output = answer(self.answers[name], arguments)
            else:
                output = forward(*args, **kwargs)
                if before and self.memory is not None and not replay:
                    self.memory.setdefault(name, []).append(output)
            if self.ending is None:
                processors = dict(getattr(module, "attn_processors", {}))
                recording.pending.append(Call(name, given, detached(output), processors))
            return output

        return spy


def _without_hooks(module: torch.nn.Module) -> tuple[Any, Any]:
    """Take a module's hooks off, as it is not run: to gather sharded weights, say, which only some of the processes would ask for."""
    kept = module._forward_pre_hooks, module._forward_hooks
    module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    return kept


def named(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """A call's arguments under their names, nested dicts flattened."""
    flat: Arguments = {}
    for key, value in signature.bind(*args, **kwargs).arguments.items():
        if key == "kwargs" and isinstance(value, dict):
            flat.update(value)
        elif isinstance(value, dict) and value:
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
    """The tensor that a denoiser returns: bare, first of a tuple or of an output record, or a list with one tensor for each sample."""
    if is_dataclass(output) and not isinstance(output, type):
        output = output.sample if hasattr(output, "sample") else getattr(output, fields(output)[0].name)
    while isinstance(output, tuple) and output:
        output = output[0]
    if isinstance(output, list) and output and all(isinstance(row, torch.Tensor) and row.shape == output[0].shape for row in output):
        return torch.stack(output)
    if not isinstance(output, torch.Tensor):
        raise CaptureRefused(f"a denoiser returned {type(output).__name__}; expected a tensor")
    return output


def detached(value: Any) -> Any:
    """Copies of all tensors in a nest of dicts, lists, tuples and output records."""
    return mapped(lambda tensor: tensor.detach().clone(), value)


def mapped(fn: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Apply ``fn`` to every tensor of a nest, keeping its form."""
    if isinstance(value, torch.Tensor):
        return fn(value)
    if type(value) in (list, tuple):
        return type(value)(mapped(fn, inner) for inner in value)
    if type(value) is dict:
        return {key: mapped(fn, inner) for key, inner in value.items()}
    if is_dataclass(value) and isinstance(value, dict):  # diffusers' output records are both
        return type(value)(**{key: mapped(fn, inner) for key, inner in value.items()})
    return value


def tensors_of(value: Any) -> list[torch.Tensor]:
    """All tensors of a nest, in order."""
    found: list[torch.Tensor] = []
    mapped(found.append, value)
    return found


def rows(arguments: Arguments) -> int:
    """The length of the first tensor, or list of tensors, among the arguments: how many rows a call works on."""
    for value in arguments.values():
        if isinstance(value, torch.Tensor) and value.ndim > 1:
            return len(value)
        if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
            return len(value)
    raise CaptureRefused("a denoiser was called without any batch")


def answer(like: Call, arguments: Arguments) -> Any:
    """Noise in the form of an earlier output, for as many rows as this call has; noise also where ``torch.randn`` is held constant."""
    before, now = rows(like.arguments), rows(arguments)

    def fresh(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(len(tensor) * now // before, *tensor.shape[1:]).normal_().to(tensor)

    def form(value: Any) -> Any:
        if type(value) is list and len(value) == before and all(isinstance(row, torch.Tensor) for row in value):  # one for each row
            return [torch.empty(value[0].shape).normal_().to(value[0]) for _ in range(now)]
        if type(value) in (list, tuple):
            return type(value)(form(inner) for inner in value)
        if is_dataclass(value) and isinstance(value, dict):
            return type(value)(**{key: form(inner) for key, inner in value.items()})
        return fresh(value) if isinstance(value, torch.Tensor) else value

    return form(like.output)


def _watched(recording: Recording, ending: torch.Tensor | None) -> Any:
    """The copied scheduler, its ``step`` recording. functools.wraps keeps the signature that pipelines inspect."""
    scheduler = recording.scheduler
    original = scheduler.step
    signature = inspect.signature(original)

    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        if not isinstance(given.get("sample"), torch.Tensor):
            raise CaptureRefused(f"{type(scheduler).__name__}.step takes no sample; its pipelines cannot be captured")
        recording.begun = True
        if ending is not None:
            result = original(*args, **kwargs)
            return mapped(lambda value: ending.to(value.dtype) if value.shape == ending.shape else value, result)
        calls, recording.pending = recording.pending, []
        t = torch.as_tensor(given["timestep"]).detach().clone().flatten()[:1].squeeze()
        found = (torch.as_tensor(scheduler.timesteps).double().cpu() - t.double().cpu()).abs().argmin()
        prediction, x = given["model_output"].detach().clone(), given["sample"].detach().clone()
        result = original(*args, **kwargs)
        recording.steps.append(StepRecord(calls, prediction, t, x, int(found), first_tensor(result).detach().clone()))
        return result

    scheduler.step = step
    return scheduler
