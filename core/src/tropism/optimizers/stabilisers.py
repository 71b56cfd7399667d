"""What keeps a policy from running away while it learns, as options of many optimizers, each written once.

kl        weight of the mean square distance of a prediction from the base model's; one more forward, none with 0
anchor    weight of plain training on what is preferred beside the preference, which alone often makes winner and loser worse together
average   the reference follows the policy as an exponential moving average with this decay (Linear-DPO, arXiv 2605.21123), else it is the
          base model
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from tropism.optimizers.base import Numbers, Optimizer, Weights


class Tied(Optimizer):
    """An optimizer that can be tied to the base model."""

    kl: float = 0.0

    def of_base(self, predict: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What ``predict`` gives with the base model's weights, without gradient."""
        with torch.no_grad(), self.weights.reference():
            return predict()

    def tied(self, loss: torch.Tensor, prediction: torch.Tensor, base: torch.Tensor | None) -> tuple[torch.Tensor, Numbers]:
        """The loss with the distance of a prediction [M, ...] from the base's, and that distance as ``from_base``; in float32, as
        media that a decoder gives in half precision have differences that are small beside them."""
        if not self.kl or base is None:
            return loss, {}
        distance = (prediction.float() - base.float()).square().mean()
        return loss + self.kl * distance, {"from_base": distance.detach()}


class Anchored(Optimizer):
    """An optimizer that can train on what is preferred beside what it does."""

    anchor: float = 0.0

    def anchored(self, loss: torch.Tensor, cost: torch.Tensor) -> torch.Tensor:
        """The loss with the mean of ``cost`` [M], which is low where the policy fits what is preferred."""
        return loss + self.anchor * cost.mean() if self.anchor else loss


class Referenced(Anchored):
    """An optimizer with a reference: the base model, or with ``average`` a moving average of the policy."""

    average: float | None = None

    def attach(self, weights: Weights) -> None:
        super().attach(weights)
        self.mean = {name: p.detach().clone() for name, p in weights.parameters.items()} if self.average is not None else {}

    def as_reference(self) -> AbstractContextManager[None]:
        """Inside the block the network is the reference."""
        return self.weights.reference() if self.average is None else self.weights.holding(self.mean)

    def updated(self) -> None:
        if self.average is not None:
            torch._foreach_lerp_(list(self.mean.values()), [p.detach() for p in self.weights.parameters.values()], 1 - self.average)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in self.mean.items():
            value.copy_(state["mean"][name])
