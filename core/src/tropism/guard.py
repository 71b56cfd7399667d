"""The guard: ends a run whose guarded metric has fallen too far, and remembers the weights to go back to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tropism.recipe import Guard as Rule

Evaluations = Sequence[tuple[int, dict[str, list[float]]]]  # iteration; metric: mean, low, high


class Guard:
    """``rule`` is the recipe's, or None for a run without one, which then never trips and remembers nothing."""

    def __init__(self, rule: Rule | None) -> None:
        self.rule = rule
        self.good: dict[str, Any] | None = None  # the last evaluated weights that the rule accepts, on the CPU: {"step", "trainable"}
        self.ended_at: int | None = None  # the iteration at which the guard ended the run

    def tripped(self, evaluations: Evaluations) -> bool:
        """Whether the metric of the last evaluation is below what may be kept; final once it has ended the run."""
        if self.ended_at is not None:
            return True
        if self.rule is None or len(evaluations) < 2:
            return False
        before, now = (values[self.rule.metric][0] for _, values in (evaluations[0], evaluations[-1]))
        return now < before - (1 - self.rule.keep) * abs(before)  # keep * before, also where the metric is negative

    def remember(self, step: int, weights: dict[str, dict[str, torch.Tensor]], evaluations: Evaluations) -> None:
        """Keep a copy of the weights of an evaluation that the rule accepts."""
        if self.rule is not None and not self.tripped(evaluations):
            copied = {part: {name: value.to("cpu", copy=True) for name, value in named.items()} for part, named in weights.items()}
            self.good = {"step": step, "trainable": copied}

    def end(self, step: int) -> dict[str, Any]:
        """End the run at iteration ``step``. Returns what was remembered: ``step`` and ``trainable`` of the weights to go back to."""
        assert self.good is not None, "the base model itself is always accepted"
        self.ended_at = step
        return self.good

    def kept_step(self, step: int) -> int:
        """The iteration whose weights the run has, when ``step`` iterations are done."""
        return step if self.ended_at is None or self.good is None else int(self.good["step"])

    def state_dict(self) -> dict[str, Any]:
        return {"good": self.good, "ended_at": self.ended_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.good, self.ended_at = state["good"], state["ended_at"]
