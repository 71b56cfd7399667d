"""What an optimizer is given and how a rollout is cut into batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from tropism.diffusion.samplers import Sampler
from tropism.policy import Policy
from tropism.types import Rollout


@dataclass(frozen=True)
class StepBatch:
    """M sampler steps of a rollout: step ``index`` [M] of sample ``sample`` [M]. ``share`` is the batch's part of its update."""

    rollout: Rollout
    sampler: Sampler
    sample: torch.Tensor
    index: torch.Tensor
    share: float


class Optimizer(Protocol):
    """An alignment algorithm. ``needs``: what it takes from a rollout, checked before a run: ``steps`` (noisy steps), ``advantage``."""

    needs: frozenset[str]

    def loss(self, policy: Policy, batch: StepBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A scalar to minimise and numbers to log, as tensors so that nothing waits for the device."""


def batches(rollout: Rollout, sampler: Sampler, updates: int, micro: int) -> list[list[StepBatch]]:
    """Cut a rollout into ``updates`` lists of batches of at most ``micro`` steps each.

    An update takes an equal run of samples with all their trained steps. Batches go time step by time step over neighbouring samples:
    with ``micro`` equal to the rollout's batch, each batch is one that the rollout itself computed, and the first ratio is exactly 1.
    """
    trained, device = rollout.steps.on.nonzero().flatten(), rollout.x0.device
    return [list(_cut(rollout, sampler, part.to(device), trained.to(device), micro)) for part in torch.arange(len(rollout)).chunk(updates)]


def _cut(rollout: Rollout, sampler: Sampler, samples: torch.Tensor, trained: torch.Tensor, micro: int) -> Iterator[StepBatch]:
    total = len(samples) * len(trained)
    # Several time steps share a batch only where ``micro`` is larger than the samples of the update.
    for run in samples.split(micro):
        index, sample = trained.repeat_interleave(len(run)), run.repeat(len(trained))
        for i, s in zip(index.split(micro), sample.split(micro), strict=True):
            yield StepBatch(rollout, sampler, s, i, len(s) / total)
