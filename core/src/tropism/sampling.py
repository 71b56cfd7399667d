"""Samples of a run by number: their conditions and seeds, their batches, and the scored and measured samples of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from tropism.diffusion.branching import branch
from tropism.diffusion.noise import sample_seed
from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import Sampler
from tropism.evaluate import Estimate, measure
from tropism.optimizers.base import Batch
from tropism.rewards.base import units
from tropism.rewards.slices import raw_scores
from tropism.scale.spread import brought_together, own_batches
from tropism.types import Condition, Item, Rollout

if TYPE_CHECKING:
    from tropism.loop import Run

START_SEED = 2**32  # added to a run's seed: the first noise that siblings share, a stream of its own
EVALUATION_SEED = 2**31  # beyond the seeds a recipe may have, so that evaluation samples share no noise with training


@dataclass(frozen=True)
class Material:
    """What an iteration learns from. batches: of a pass, by its key, for each update. numbers: to log. scores: raw, [B], by reward name."""

    batches: Callable[[int], list[list[Batch]]]
    numbers: dict[str, float]
    scores: dict[str, torch.Tensor]


def condition(items: list[Item], seed: int, first: int, group: int) -> Condition:
    """Conditions, not yet encoded, for samples number first, first + 1, ... of the stream of samples of a seed."""
    seeds = torch.tensor([sample_seed(seed, first + index) for index in range(len(items))])
    return Condition(items=items, encoded={}, seed=seeds, group=torch.arange(first, first + len(items)) // group)


def shared_start(cond: Condition, seed: int) -> list[int]:
    """Seeds of the first noise, one for all siblings."""
    return [sample_seed(START_SEED + seed, group) for group in cond.group.tolist()]


def encoded(run: Run, cond: Condition) -> Condition:
    return replace(cond, encoded=run.conditions.encode(cond.items))


def batch(
    run: Run,
    cond: Condition,
    sampler: Sampler,
    steps: int,
    kept: range,
    elsewhere: Sampler | None = None,
    start: list[int] | None = None,
) -> Rollout:
    """One batch of encoded conditions, with the steps ``kept`` of its trajectory. start: seeds of the first noise; the samples' by default.

    Its media are on the CPU: those of a whole rollout may be more than the device has room for.
    """
    with run.engine.precision():
        if kept and "branches" in run.optimizer.needs:
            rollout = branch(run.policy, cond, sampler, steps, kept=kept, elsewhere=elsewhere)
        else:
            rollout = collect(run.policy, cond, sampler, steps, kept=kept, elsewhere=elsewhere, means=run.optimizer.means, start=start)
    slices = rollout.x0.split(run.recipe.rollout.decode or len(cond))
    with run.engine.decoding(), torch.no_grad():
        media = [{kind: part.cpu() for kind, part in run.policy.decode(x0).items()} for x0 in slices]
    rollout.media = {kind: torch.cat([part[kind] for part in media]) for kind in media[0]} if len(media) > 1 else media[0]
    return rollout


def evaluation(run: Run, items: Sequence[Item] | None = None) -> Rollout:
    """The evaluation's samples, scored. items: others than the first held-out ones, which are the recipe's."""
    part = run.recipe.evaluate
    chosen = run.heldout_items[: part.prompts] if items is None else items
    return scored(run, condition([item for item in chosen for _ in range(part.per_prompt)], EVALUATION_SEED, 0, part.per_prompt))


def scored(run: Run, cond: Condition) -> Rollout:
    """Samples, without trajectories, made as the evaluation makes them, scored raw by the trained and the watched rewards.

    Of several processes each makes its batches, and the main one gets all samples.
    """
    size, steps, parts = run.recipe.rollout.batch, run.recipe.evaluate.steps or run.recipe.rollout.steps, []
    shares = [own_batches(len(cond), size, rank, run.processes.size) for rank in range(run.processes.size)]
    for rows in shares[run.processes.rank][0]:
        parts.append(batch(run, encoded(run, cond.pick(rows)), run.evaluation_sampler, steps, range(0)))
        run.progress.advance(len(rows) * run.processes.size)
    samples = Rollout.cat(parts)
    samples.scores = raw_scores(run.rewards, samples, size, run.engine.device)
    return brought_together(cond, samples, [places for _, places in shares], run.processes)


def measured(run: Run, samples: Rollout, base: Rollout) -> dict[str, Estimate]:
    """All estimates of an evaluation, made by the main process."""

    def found() -> dict[str, list[float]]:
        return {name: e.as_list() for name, e in measure(samples, base, run.evaluators, units(run.rewards)).items()}

    values = run.processes.from_main(found)
    return {name: Estimate(*three) for name, three in values.items()}
