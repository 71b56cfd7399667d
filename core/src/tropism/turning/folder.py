"""A folder of steered samples: what each of several methods made of the same prompts and first noises, and what it cost.

``summary.json`` (everything in numbers), ``metrics.jsonl`` (a line a point), ``samples/METHOD/`` (what was chosen), ``steered.yaml`` (the
recipe, to be steered again), ``env.json`` and, from these alone, ``report.html``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tropism import gallery, runfolder
from tropism.evaluate import Estimate, estimates
from tropism.recipe import Part
from tropism.report.read import Interval
from tropism.report.told import Moment, Outcome, Prompt, Told
from tropism.rewards.base import units
from tropism.rewards.slices import raw_scores
from tropism.scale import memory
from tropism.steering.base import Method
from tropism.steering.best_of_n import BestOfN
from tropism.steering.steered import Steered
from tropism.track import Metrics
from tropism.turning.particles import steered
from tropism.types import Item, Rollout, label

if TYPE_CHECKING:
    from tropism.loop import Run

BEST_OF_N, UNSTEERED = "best-of-n", "unsteered"


@dataclass(frozen=True)
class Way:
    """A method with the name it is told by."""

    label: str
    part: Part
    method: Method


def write(job: Run, items: Sequence[Item], ways: Sequence[Way], seed: int, folder: Path, say: Callable[[str], None]) -> Told:
    """Steer ``items`` in every way, with the weights that ``job`` has now, and write the folder. ``say`` hears a line a method.

    The first way is the one that others are compared with: ``best-of-n`` among the others has as many samples as its forwards pay for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "env.json").write_text(json.dumps(runfolder.environment(), indent=1))
    (folder / "steered.yaml").write_text(job.recipe.dump())
    outcomes = [_outcome(job, items, best_of(1, UNSTEERED), seed, folder)]
    say(_line(outcomes[0]))
    for way in ways:
        if way.part.use == BEST_OF_N and len(outcomes) > 1:
            way = best_of(max(1, round(outcomes[1].forwards / outcomes[0].forwards)), way.label)
        outcomes.append(_outcome(job, items, way, seed, folder))
        say(_line(outcomes[-1]))
    recipe = job.recipe
    told = Told(
        steered=recipe.name,
        seed=seed,
        sampler=recipe.rollout.sampler.use,
        steps=recipe.rollout.steps,
        device=str(job.engine.device),
        trained=[part.use for part in recipe.rewards],
        outcomes=outcomes,
    )
    (folder / "summary.json").write_text(told.model_dump_json(indent=1))
    _log(told, Metrics(folder / "metrics.jsonl"))
    return told


def best_of(count: int, name: str) -> Way:
    """The best of ``count`` independent samples."""
    return Way(name, Part.model_validate({"use": BEST_OF_N, "particles": count}), BestOfN(count))


def _outcome(job: Run, items: Sequence[Item], way: Way, seed: int, folder: Path) -> Outcome:
    engine, parts, prompts = job.engine, list[Rollout](), list[Prompt]()
    found: dict[str, list[torch.Tensor]] = {"best reward": [], "mean reward": [], "distinct roots": [], "log Z": []}
    forwards = calls = unscored = 0
    job.conditions.encode(list(items))
    memory.reset(engine.device)
    engine.synchronize()
    begin = time.perf_counter()
    for cond, made in steered(job, items, way.method, seed):
        parts.append(made.rollout(cond))
        prompts += told(made, way.method.particles, [label(item) for item in cond.items[:: way.method.particles]])
        forwards, calls, unscored = forwards + made.forwards, calls + made.calls, unscored + made.unscored
        found["best reward"].append(torch.where(made.reward.isnan(), -torch.inf, made.reward).amax(1))
        found["mean reward"].append(made.mean_reward)
        found["distinct roots"].append(made.roots.double())
        found["log Z"].append(made.log_z)
    engine.synchronize()
    seconds, most = time.perf_counter() - begin, memory.peak(engine.device)
    chosen = Rollout.cat(parts)
    chosen.scores = {name: torch.cat([part.scores[name] for part in parts]) for name in parts[0].scores}
    chosen.scores |= raw_scores(job.watched, chosen, job.recipe.rollout.batch, engine.device)
    gallery.write(chosen, job.views, folder / "samples" / way.label, len(chosen), {"step": 0, "samples": len(chosen)})
    whole = {name: torch.cat(values) for name, values in found.items()}
    metrics = {name: Estimate.of(values) for name, values in whole.items() if values.isfinite().all()}
    metrics |= estimates(chosen.scores, chosen.cond.group, units(job.rewards))
    return Outcome(
        label=way.label,
        method=way.part.model_dump(),
        particles=way.method.particles,
        forwards=forwards,
        calls=calls,
        unscored=unscored,
        seconds=round(seconds, 3),
        memory=most,
        metrics={name: Interval(*estimate.as_list()) for name, estimate in metrics.items()},
        prompts=prompts,
    )


def told(made: Steered, first: int, names: Sequence[str]) -> Iterator[Prompt]:
    """What became of the ``first`` particles of each prompt, as plain numbers."""
    weights, exact = made.weights, made.log_z.isfinite()
    for row, name in enumerate(names):
        moments, count = list[Moment](), first
        for point in made.points:
            copies = max(1, point.reward.shape[1] // count)  # a method may try several moves of a particle before it keeps one
            ancestors = (point.ancestors[row] // copies).tolist()
            moments.append(
                Moment(
                    index=point.index,
                    reward=_numbers(point.reward[row]),
                    ess=_number(point.ess[row].item()) if exact[row] else None,
                    lam=_number(point.lam[row].item()),
                    ancestors=ancestors,
                    resampled=bool(point.resampled[row]),
                )
            )
            count = len(ancestors)
        yield Prompt(
            prompt=name,
            first=first,
            moments=moments,
            root=made.root[row].tolist(),
            weight=_numbers(weights[row]),
            reward=_numbers(made.reward[row]),
            chosen=made.chosen[row].tolist(),
            log_z=_number(made.log_z[row].item()),
            lam=_number(made.lam[row].item()),
        )


def _log(told: Told, metrics: Metrics) -> None:
    """The means over prompts of every point of every method."""
    for one in told.outcomes:
        for number, moment in enumerate(one.prompts[0].moments):
            several = [prompt.moments[number] for prompt in one.prompts]
            ess = [m.ess for m in several if m.ess is not None]
            rewards = [reward for m in several for reward in m.reward if reward is not None]
            values: dict[str, float] = {f"{one.label}/resampled": sum(m.resampled for m in several) / len(several)}
            if ess:
                values[f"{one.label}/ess"] = sum(ess) / len(ess)
            if rewards:
                values[f"{one.label}/reward"] = sum(rewards) / len(rewards)
            metrics.write(moment.index, one.particles * len(one.prompts), one.seconds, values)


def _line(one: Outcome) -> str:
    best = one.metrics.get("best reward")
    text = f"best reward {best.mean:.4g}  " if best else ""
    return f"{one.label}: {text}{one.forwards:,} forwards, {one.calls:,} rewards, {one.seconds:.1f} s"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _numbers(values: torch.Tensor) -> list[float | None]:
    return [_number(value) for value in values.tolist()]
