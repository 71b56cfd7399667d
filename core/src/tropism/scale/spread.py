"""How a run's work is spread over processes: by whole groups, so that every result is the one that a single process has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from tropism.diffusion.branching import branches
from tropism.errors import RecipeError
from tropism.recipe import Recipe
from tropism.scale.processes import Processes
from tropism.types import Condition, Rollout


def own_samples(samples: int, updates: int, rank: int, size: int) -> list[int]:
    """The numbers, below ``samples``, of the rollout's samples that process ``rank`` of ``size`` makes.

    Of each update's run of samples every process takes an equal part in a row, so that an update learns from the same samples however
    many processes there are.
    """
    run, part = samples // updates, samples // updates // size
    return [update * run + rank * part + index for update in range(updates) for index in range(part)]


def own_batches(count: int, batch: int, rank: int, size: int) -> tuple[list[range], list[int]]:
    """Of an evaluation of ``count`` samples: the batches (runs of samples) that a process makes, and which of those samples are wanted.

    All make equally many batches: one that would have none left makes the last batch again, which is then not wanted.
    """
    runs = [range(begin, min(begin + batch, count)) for begin in range(0, count, batch)]
    turns = range(rank, math.ceil(len(runs) / size) * size, size)
    return [runs[min(turn, len(runs) - 1)] for turn in turns], [row for turn in turns if turn < len(runs) for row in runs[turn]]


def joined(cond: Condition, rollout: Rollout, places: Sequence[Sequence[int]], processes: Processes) -> Rollout:
    """The scores of all processes as one rollout of the samples ``cond``; its states and conditions stay where they were made.

    places: by rank, which samples of ``cond`` the rows of that process's ``rollout`` are. A single process gets its own rollout back. Where
    the groups have branched, all these are of their branches.
    """
    if processes.size == 1:
        return rollout
    times = len(rollout) // len(places[processes.rank])
    cond, places = branches(cond, times), [_branched(rows, times) for rows in places]
    counts, order = [len(rows) for rows in places], _order(places)
    scores = {name: processes.rows(values, counts)[order] for name, values in rollout.scores.items()}
    nothing = torch.empty(len(cond), 0)
    steps = replace(rollout.steps, x=nothing, logp=nothing, levels=rollout.steps.levels[:0], on=rollout.steps.on[:0], mean=None, at=None)
    return Rollout(cond=cond, x0=nothing, steps=steps, scores=scores)


def handed_out(whole: Rollout, rollout: Rollout, rows: Sequence[int]) -> Rollout:
    """A process's own rollout with its part of the rewards and advantages that follow from the scores of all."""
    if whole is rollout:
        return rollout
    assert whole.reward is not None
    rows = _branched(rows, len(rollout) // len(rows))
    reward, advantage = (None if values is None else values[rows] for values in (whole.reward, whole.advantage))
    return replace(rollout, reward=reward, advantage=advantage)


def brought_together(cond: Condition, samples: Rollout, places: Sequence[Sequence[int]], processes: Processes) -> Rollout:
    """The samples of an evaluation with media and scores, in the main process and in the order of ``cond``; others keep their own."""
    if processes.size == 1:
        return samples
    counts, order = [len(rows) for rows in places], _order(places)

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        found = processes.rows(tensor[: counts[processes.rank]].cpu(), counts, everywhere=False)
        return found[order].to(tensor.device) if processes.main else found

    media = {kind: whole(tensor) for kind, tensor in samples.media.items()}
    scores = {name: whole(values) for name, values in samples.scores.items()}
    return replace(samples, cond=cond, x0=whole(samples.x0), media=media, scores=scores)


def merged(numbers: Sequence[dict[str, float]]) -> dict[str, float]:
    """What the processes log as one: the mean of every number over those that have it; of the first ratio's error, the largest."""
    found: dict[str, list[float]] = {}
    for of_one in numbers:
        for name, value in of_one.items():
            found.setdefault(name, []).append(value)
    return {name: max(values) if name.endswith("first_ratio_error") else sum(values) / len(values) for name, values in found.items()}


def refuse_uneven(recipe: Recipe, size: int) -> None:
    """Raise RecipeError, with the nearest numbers that work, where the recipe's samples do not divide over ``size`` processes."""
    rollout, updates = recipe.rollout, recipe.train.updates
    if _fits(recipe, size):
        return
    whole, unit = updates * size * rollout.group, _unit(recipe, size)
    down, up = rollout.samples // unit * unit, -(-rollout.samples // unit) * unit
    options = [f"rollout.samples={' or '.join(str(number) for number in (down, up) if number)}"]
    if rollout.samples % whole == 0:
        options.append(f"rollout.batch={max(n for n in range(1, rollout.batch + 1) if rollout.samples // size % n == 0)}")
    fewer = max(other for other in range(1, size) if _fits(recipe, other))
    options.append(f"{fewer} process{'es' if fewer > 1 else ''}")
    raise RecipeError(
        f"rollout.samples={rollout.samples} does not divide over {size} processes: each needs whole groups of {rollout.group} in each of "
        f"{updates} update{'s' if updates > 1 else ''}, and whole batches of {rollout.batch}; nearest that does: {', or '.join(options)}"
    )


def _unit(recipe: Recipe, size: int) -> int:
    """What the samples must be a multiple of."""
    return math.lcm(recipe.train.updates * size * recipe.rollout.group, size * recipe.rollout.batch)


def _fits(recipe: Recipe, size: int) -> bool:
    return size == 1 or recipe.rollout.samples % _unit(recipe, size) == 0


def _branched(rows: Sequence[int], times: int) -> list[int]:
    """The places of the branches of whole groups of samples, which stand at ``rows``; see :func:`tropism.diffusion.branching.branches`."""
    return [row * times + number for row in rows for number in range(times)]


def _order(places: Sequence[Sequence[int]]) -> torch.Tensor:
    """Which row, of those of all processes by rank, stands at each place."""
    return torch.tensor([place for rows in places for place in rows]).argsort()
