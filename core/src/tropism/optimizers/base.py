"""What an optimizer is, what it is given, and how a rollout is cut into batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from tropism.diffusion.noise import sample_seed
from tropism.diffusion.noising import Noised, noised
from tropism.diffusion.samplers import Sampler
from tropism.policy import Policy
from tropism.types import Condition, Labelled, Pairs, Rollout, Tree, tree_map

Numbers = dict[str, torch.Tensor]
NEEDS = frozenset({"steps", "samples", "endings", "advantage", "pairs", "labels", "segments", "shared start", "branches"})


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


@dataclass(frozen=True)
class StepPairBatch:
    """M pairs of sampler steps: stored step ``index`` [M] of two samples, ``winner`` [M] and ``loser`` [M], that count ``weight`` [M]."""

    rollout: Rollout
    sampler: Sampler
    winner: torch.Tensor
    loser: torch.Tensor
    weight: torch.Tensor
    index: torch.Tensor
    share: float

    @property
    def sample(self) -> torch.Tensor:
        return torch.cat([self.winner, self.loser])


@dataclass(frozen=True)
class PairBatch:
    """M noisings of pairs of finished samples: draw ``number`` [M] of ``of`` of pair ``sample`` [M]. key, share: as in SampleBatch."""

    pairs: Pairs
    sample: torch.Tensor
    number: torch.Tensor
    of: int
    key: int
    share: float


@dataclass(frozen=True)
class LabelBatch:
    """M noisings of labelled samples: draw ``number`` [M] of ``of`` of sample ``sample`` [M]. key, share: as in SampleBatch."""

    labelled: Labelled
    sample: torch.Tensor
    number: torch.Tensor
    of: int
    key: int
    share: float


Batch = StepBatch | SampleBatch | EndBatch | StepPairBatch | PairBatch | LabelBatch


def seeds(batch: Batch) -> list[int]:
    """The seeds of a batch's samples or pairs, for messages."""
    if isinstance(batch, PairBatch):
        cond = batch.pairs.cond
    else:
        cond = batch.labelled.cond if isinstance(batch, LabelBatch) else batch.rollout.cond
    found: list[int] = cond.seed[batch.sample.cpu()].tolist()
    return found


def renoised(policy: Policy, batch: SampleBatch) -> tuple[Noised, Tree]:
    """A batch's samples noised again, with their conditions."""
    cond = tree_map(lambda t: t[batch.sample], batch.rollout.cond.encoded)
    return noised(policy, batch.rollout.x0[batch.sample], seeds(batch), batch.number, batch.of, batch.key), cond


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
    reward), ``advantage`` (samples whose advantage is 0 are left out), ``pairs`` (PairBatches, with ``steps`` StepPairBatches; a rollout
    needs a judge), ``labels`` (LabelBatches; in a rollout, the signs of the advantages), ``segments`` (pairs that say who is better where),
    ``shared start`` (siblings of one first noise), ``branches`` (siblings that are candidates for every step of one chain).
    """

    needs: ClassVar[frozenset[str]]
    without: ClassVar[dict[str, str]] = {}  # options that others have and why they make no sense here, for ``tropism check``
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
        if "pairs" in optimizer.needs:
            group.extend(_couples(optimizer, rollout, sampler, part, micro, key))
        elif "steps" in optimizer.needs:
            group.extend(_steps(rollout, sampler, useful, len(part), micro))
        if "labels" in optimizer.needs:
            group.extend(label_batches(by_sign(rollout), part, optimizer.draws, micro, key))
        if "samples" in optimizer.needs:
            numbers = torch.arange(optimizer.draws, device=part.device)
            for sample, number in _pairs(useful, numbers, micro):
                group.append(SampleBatch(rollout, sample, number, optimizer.draws, key, len(sample) / (len(part) * optimizer.draws)))
        if "endings" in optimizer.needs:
            group.extend(EndBatch(rollout, sampler, run, reward, key, len(run) / len(part)) for run in part.split(micro))
        found.append(group)
    return found


def pair_batches(pairs: Pairs, rows: torch.Tensor, draws: int, micro: int, key: int) -> Iterator[PairBatch]:
    """Noisings of the pairs ``rows`` of an update, ``micro`` samples (half as many pairs) a batch; pairs without weight only count."""
    useful, numbers = rows[pairs.weight.to(rows.device)[rows] > 0], torch.arange(draws, device=rows.device)
    for pair, number in _pairs(useful, numbers, max(micro // 2, 1)):
        yield PairBatch(pairs, pair, number, draws, key, len(pair) / (len(rows) * draws))


def label_batches(labelled: Labelled, rows: torch.Tensor, draws: int, micro: int, key: int) -> Iterator[LabelBatch]:
    """Noisings of the labelled samples ``rows`` of an update, at most ``micro`` a batch; samples with label 0 only count."""
    useful, numbers = rows[labelled.label.to(rows.device)[rows] != 0], torch.arange(draws, device=rows.device)
    for sample, number in _pairs(useful, numbers, micro):
        yield LabelBatch(labelled, sample, number, draws, key, len(sample) / (len(rows) * draws))


def paired(rollout: Rollout) -> Pairs:
    """The pairs of finished samples that a judge made of a rollout. A pair has a seed of its own, which follows from those of the two."""
    couples = rollout.couples
    assert couples is not None, "no judge has seen this rollout"
    device = rollout.x0.device
    winner, loser = couples.winner.to(device), couples.loser.to(device)
    cond = rollout.cond.take(winner)
    both = zip(cond.seed.tolist(), rollout.cond.seed[couples.loser.cpu()].tolist(), strict=True)
    # The same for a pair and its mirror image, so that a label that is turned round changes nothing else.
    own = torch.tensor([sample_seed(min(a, b), max(a, b)) for a, b in both], dtype=torch.int64)
    cond = Condition(items=cond.items, encoded=cond.encoded, seed=own, group=cond.group)
    return Pairs(
        cond=cond,
        winner=rollout.x0[winner],
        loser=rollout.x0[loser],
        weight=couples.weight.to(device),
        chance=couples.chance.to(device),
    )


def by_sign(rollout: Rollout) -> Labelled:
    """The samples of a rollout, labelled by the signs of their advantages."""
    assert rollout.advantage is not None
    return Labelled(cond=rollout.cond, x0=rollout.x0, label=rollout.advantage.sign().float().to(rollout.x0.device))


def _couples(
    optimizer: Optimizer, rollout: Rollout, sampler: Sampler, part: torch.Tensor, micro: int, key: int
) -> Iterator[StepPairBatch | PairBatch]:
    """The couples whose winner is in ``part``: steps of their trajectories, or noisings of their finished samples."""
    couples = rollout.couples
    assert couples is not None, "no judge has seen this rollout"
    winner, loser, weight = (t.to(part.device) for t in (couples.winner, couples.loser, couples.weight))
    rows = ((winner >= part[0]) & (winner <= part[-1])).nonzero().flatten()
    if "steps" not in optimizer.needs:
        yield from pair_batches(paired(rollout), rows, optimizer.draws, micro, key)
        return
    trained = rollout.steps.on.nonzero().flatten().to(part.device)
    for pair, index in _pairs(rows[weight[rows] > 0], trained, max(micro // 2, 1)):
        share = len(pair) / (len(rows) * len(trained))
        yield StepPairBatch(rollout, sampler, winner[pair], loser[pair], weight[pair], index, share)


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
