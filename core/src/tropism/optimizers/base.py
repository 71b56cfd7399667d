"""What an optimizer is, what it is given, and how a rollout is cut into batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from tropism.diffusion.samplers import Sampler
from tropism.policy import Policy
from tropism.types import Rollout

Numbers = dict[str, torch.Tensor]
NEEDS = frozenset({"steps", "samples", "endings", "advantage"})


@dataclass(frozen=True)
class StepBatch:
    """M sampler steps of a rollout: stored step ``index`` [M] of sample ``sample`` [M]. ``share`` is the batch's part of its update."""

    rollout: Rollout
    sampler: Sampler
    sample: torch.Tensor
    index: torch.Tensor
    share: float


@dataclass(frozen=True)
class SampleBatch:
    """M noisings of finished samples: draw ``number`` [M] of ``of`` of sample ``sample`` [M].

    key: new in every pass over a rollout, so that its noise is new; the noise follows from it and the samples' seeds.
    """

    rollout: Rollout
    sample: torch.Tensor
    number: torch.Tensor
    of: int
    key: int
    share: float


@dataclass(frozen=True)
class EndBatch:
    """M whole samples ``sample`` [M], whose last steps are to be taken anew. ``reward``: a rollout's combined reward [M] with gradient."""

    rollout: Rollout
    sampler: Sampler
    sample: torch.Tensor
    reward: Callable[[Rollout], torch.Tensor]
    key: int
    share: float


Batch = StepBatch | SampleBatch | EndBatch


class Weights(Protocol):
    """The learning weights, as optimizers with a reference or an older copy need them."""

    parameters: dict[str, torch.nn.Parameter]

    def reference(self) -> AbstractContextManager[None]:
        """Inside the block the network is the base model."""

    def holding(self, weights: dict[str, torch.Tensor]) -> AbstractContextManager[None]:
        """Inside the block the network has other weights, by name."""


class Optimizer(ABC):
    """An alignment algorithm: ``needs`` and ``loss``; the rest is for those that remember something.

    needs, checked before a run: ``steps`` (gives StepBatches), ``samples`` (SampleBatches), ``endings`` (EndBatches, and a differentiable
    reward), ``advantage`` (samples whose advantage is 0 are left out).
    """

    needs: ClassVar[frozenset[str]]
    draws: int = 1  # noisings of a sample in a pass, where finished samples are what is needed
    means: bool = False  # whether the means of the steps are to be stored
    weights: Weights

    @abstractmethod
    def loss(self, policy: Policy, batch: Any) -> tuple[torch.Tensor, Numbers]:
        """A scalar to minimise and numbers to log, as tensors so that nothing waits for the device."""

    def kept(self, steps: int) -> range:
        """Which of ``steps`` sampler steps a rollout has to store."""
        return range(steps) if self.needs & {"steps", "endings"} else range(steps, steps)

    def attach(self, weights: Weights) -> None:
        """Called once, before anything else."""
        self.weights = weights

    def acting(self) -> AbstractContextManager[None]:
        """Rollouts are made inside this block; here with the weights that learn."""
        return nullcontext()

    def updated(self) -> None:
        """The weights have taken a step."""
        return

    def finished(self) -> None:
        """The rollout has been used up; the next one comes."""
        return

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return None


def batches(rollout: Rollout, sampler: Sampler, updates: int, micro: int) -> list[list[StepBatch]]:
    """Cut a rollout into ``updates`` lists of batches of at most ``micro`` steps each.

    An update takes an equal run of samples with all their trained steps. Batches go time step by time step over neighbouring samples:
    with ``micro`` equal to the rollout's batch, each batch is one that the rollout itself computed, and the first ratio is exactly 1.
    """
    return [list(_steps(rollout, sampler, part, len(part), micro)) for part in _parts(rollout, updates)]


def plan(
    optimizer: Optimizer,
    rollout: Rollout,
    sampler: Sampler,
    updates: int,
    micro: int,
    key: int,
    reward: Callable[[Rollout], torch.Tensor],
) -> list[list[Batch]]:
    """The batches that an optimizer needs, for each of ``updates`` updates.

    Samples without advantage are left out where advantages are what is learned from. They still count in the shares, so the gradient is
    what it would be with them, however a rollout is spread over processes.
    """
    found: list[list[Batch]] = []
    for part in _parts(rollout, updates):
        group: list[Batch] = []
        useful = part
        if "advantage" in optimizer.needs and rollout.advantage is not None:
            useful = part[rollout.advantage.to(part.device)[part].abs() > 1e-8]
        if "steps" in optimizer.needs:
            group.extend(_steps(rollout, sampler, useful, len(part), micro))
        if "samples" in optimizer.needs:
            numbers = torch.arange(optimizer.draws, device=part.device)
            for sample, number in _pairs(useful, numbers, micro):
                group.append(SampleBatch(rollout, sample, number, optimizer.draws, key, len(sample) / (len(part) * optimizer.draws)))
        if "endings" in optimizer.needs:
            group.extend(EndBatch(rollout, sampler, run, reward, key, len(run) / len(part)) for run in part.split(micro))
        found.append(group)
    return found


def _parts(rollout: Rollout, updates: int) -> tuple[torch.Tensor, ...]:
    return torch.arange(len(rollout), device=rollout.x0.device).chunk(updates)


def _steps(rollout: Rollout, sampler: Sampler, samples: torch.Tensor, count: int, micro: int) -> Iterator[StepBatch]:
    trained = rollout.steps.on.nonzero().flatten().to(samples.device)
    for sample, index in _pairs(samples, trained, micro):
        yield StepBatch(rollout, sampler, sample, index, len(sample) / (count * len(trained)))


def _pairs(samples: torch.Tensor, numbers: torch.Tensor, micro: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every sample with every number, ``micro`` pairs at a time, number by number over neighbouring samples."""
    # Several numbers share a batch only where ``micro`` is larger than the samples of the update.
    for run in samples.split(micro):
        if len(run):
            number, sample = numbers.repeat_interleave(len(run)), run.repeat(len(numbers))
            yield from zip(sample.split(micro), number.split(micro), strict=True)
