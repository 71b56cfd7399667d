"""The policy: six methods are a modality's whole surface. No loop, no LoRA, no saving and no device code in it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from tropism.diffusion.noise import Draw
from tropism.diffusion.schedules import Schedule
from tropism.types import Item, Level, Tree


class Policy(Protocol):
    """A generative model being aligned. Contract tests in :mod:`tropism.testing` say what each method must keep."""

    emits: frozenset[str]  # kinds of media that decode gives, e.g. {"image"}

    @property
    def schedule(self) -> Schedule:
        """Noise levels and what the network's output means."""

    def encode(self, items: list[Item]) -> Tree:
        """Conditions [B, ...] for items; cached by the caller, so it may be slow. No gradient."""

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        """The network's output, guidance included: x [B, ...] at levels [B] -> [B, ...] float32. Pure and differentiable."""

    def noise(self, draw: Draw, level: Level, cond: Tree) -> torch.Tensor:
        """Where sampling starts, at scalar ``level``: x_T [B, ...] float32. Both matter only where it starts from a noised picture."""

    def decode(self, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        """Finished samples [B, ...] -> media by kind, e.g. {"image": [B, 3, H, W] in [0, 1]}."""

    def trainable(self) -> torch.nn.Module:
        """The network that learns."""


class Embedding(Policy, Protocol):
    """A policy that can also learn from media of others: what an offline run needs."""

    def embed(self, media: dict[str, torch.Tensor]) -> torch.Tensor:
        """The inverse of decode: media by kind, in the shapes that decode gives -> x0 [B, ...] float32. No gradient.

        Raises PolicyError where that cannot be.
        """


@runtime_checkable
class Guided(Protocol):
    """What a policy also has whose guidance is for sampling alone: methods that learn from denoising errors take those of ``unguided``."""

    def unguided(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        """As ``predict``, without guidance: what the network itself says, and what pretraining fitted."""


def fitted(policy: Policy, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
    """The prediction whose error is a denoising error: ``unguided`` of a policy that tells it apart, else ``predict``."""
    return policy.unguided(x, level, cond) if isinstance(policy, Guided) else policy.predict(x, level, cond)
