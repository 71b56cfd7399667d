"""Timers inside a run, put there from outside: the run's own code knows nothing of them."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from tropism.loop import Run


class Clock:
    """Seconds by name; every reading waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        begin = self.now()
        yield
        self.seconds[name] += self.now() - begin

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **keywords: Any) -> Any:
            with self.timing(name):
                return function(*args, **keywords)

        return wrapper


@dataclass
class Watch:
    """Timers inside a run's epoch. Forwards and backwards of the network are seen by hooks, all else by wrapping."""

    job: Run
    clock: Clock
    made: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})  # forwards, by whether they keep a gradient
    example: dict[bool, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    on: bool = True
    mark: float = 0.0  # when the forward, or the last piece of the backward, began

    def __post_init__(self) -> None:
        job, clock = self.job, self.clock
        job.policy.decode = clock.timed("decode", job.policy.decode)
        job.policy.encode = clock.timed("encode prompts", job.policy.encode)
        job.engine.update = clock.timed("torch optimizer", job.engine.update)  # type: ignore[method-assign]
        for part in job.combined.parts:
            part.reward = clock.timed("reward", part.reward)
        network = job.policy.trainable()
        network.register_forward_pre_hook(self._enter)
        network.register_forward_hook(self._leave, with_kwargs=True)
        for parameter in job.trainable.parameters.values():
            parameter.register_post_accumulate_grad_hook(self._gradient)

    def _enter(self, network: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.mark = self.clock.now()

    def _leave(self, network: torch.nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        answered_for = "forward" in vars(network)  # a pipeline that is only looked at does not run its network
        if self.on and not answered_for:
            self.clock.seconds["network forward"] += self.clock.now() - self.mark
            kept = torch.is_grad_enabled()
            self.made[kept] += 1
            if kept not in self.example:
                self.example[kept] = _clone(args), _clone(keywords)
            if kept:
                first(output).register_hook(self._turn)

    def _turn(self, gradient: torch.Tensor) -> None:
        """The gradient has come to the network's output: its backward begins."""
        self.mark = self.clock.now()

    def _gradient(self, parameter: torch.Tensor) -> None:
        """A parameter has its gradient; the last one to have it ends the backward."""
        if self.on:
            now = self.clock.now()
            self.clock.seconds["network backward"] += now - self.mark
            self.mark = now


def first(output: Any) -> torch.Tensor:
    """The prediction among what a network returns."""
    if isinstance(output, torch.Tensor):
        return output
    prediction: torch.Tensor = output[0]
    return prediction


def _clone(value: Any) -> Any:
    """The same arguments as tensors of their own, so that the bare work shares no memory with the run."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _clone(item) for key, item in value.items()}
    return tuple(_clone(item) for item in value) if isinstance(value, list | tuple) else value
