"""How much tropism's loop costs beside the network that it drives.

An epoch is what a run does in an iteration: rollout, decode, reward, credit, update, log. The bare work is the same number of forwards and
backwards of the same network (LoRA layers in place, guidance's doubled batch included) on plain tensors of the same shapes. The two take
turns, and the number that counts is the median over the rounds of

    (epoch - decode - reward) / bare

    python benchmarks/overhead.py                                         # image/rlcm-align and image/ddpo-align
    python benchmarks/overhead.py --recipe image/rlcm-align rollout.samples=128 --rounds 9 --json overhead.json

Every timer waits for the device, so on a GPU, where Python can run ahead of the device, the overhead is an upper bound.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from stopwatch import Clock, Watch, first

from tropism import api
from tropism.errors import RecipeError
from tropism.loop import Run
from tropism.progress import Progress
from tropism.recipe import Evaluate, Recipe

RECIPES = ("image/rlcm-align", "image/ddpo-align")
GOAL = 1.05
PARTS = ("network forward", "network backward", "decode", "reward", "encode prompts", "torch optimizer")


def epoch(job: Run) -> None:
    """An iteration as the run's own loop makes it."""
    material = job.source.take()
    numbers = job.update(material)
    job.step += 1
    job.log({**material.numbers, **numbers})


def needed(recipe: Recipe, trained: int) -> tuple[int, int]:
    """(forwards without gradient, forwards with one) that an epoch needs, where ``trained`` steps of a sample have noise.

    Raises RecipeError for batches that differ in shape.
    """
    rollout, train = recipe.rollout, recipe.train
    micro, samples = train.micro or rollout.batch, rollout.samples // train.updates
    runs = [min(micro, samples - begin) * trained for begin in range(0, samples, micro)]
    sizes = [min(micro, run - begin) for run in runs for begin in range(0, run, micro)]
    if len(set(sizes)) > 1:
        raise RecipeError(f"batches of {sorted(set(sizes))} steps in an update; give a train.micro that divides it, so that all are alike")
    return rollout.samples // rollout.batch * rollout.steps, len(sizes) * train.updates * train.passes


def bare(job: Run, watch: Watch, forwards: int, backwards: int) -> float:
    """Seconds of the network's own work for an epoch, on plain tensors."""
    network, updates = job.policy.trainable(), job.recipe.train.updates * job.recipe.train.passes
    watch.on, begin = False, watch.clock.now()
    args, keywords = watch.example[False]
    with job.engine.precision(), torch.no_grad():
        for _ in range(forwards):
            network(*args, **keywords)
    args, keywords = watch.example[True]
    for number in range(backwards):
        with job.engine.precision():
            output = first(network(*args, **keywords))
        output.backward(torch.full_like(output, 1e-6))
        if (number + 1) % (backwards // updates) == 0:
            job.torch_optimizer.zero_grad(set_to_none=True)
    end, watch.on = watch.clock.now(), True
    return end - begin


def measure(recipe_name: str, overrides: Sequence[str], rounds: int, plugin_files: Sequence[Path] = ()) -> dict[str, Any]:
    """Interleave ``rounds`` epochs with the bare work. Returns ratios with quartiles, the breakdown and every round's seconds."""
    manager, catalog = api.loaded(plugin_files)
    recipe = api.load_recipe(recipe_name, catalog, overrides)[0]
    # Nothing here is evaluated, so what only an evaluation needs is not built.
    recipe = recipe.model_copy(update={"evaluate": Evaluate(), "guard": None, "track": ()})
    with tempfile.TemporaryDirectory() as folder:
        job = Run(recipe, Path(folder), manager, catalog, Progress(Console(quiet=True)))
        clock = Clock(job.engine.device)
        watch = Watch(job, clock)
        trained = int((job.sampler.deviation(*_pairs(job)) > 0).sum())
        forwards, backwards = needed(recipe, trained)
        epoch(job)  # the first one is slower: memory, caches, threads
        made = dict(watch.made)
        bare(job, watch, forwards, backwards)
        seen: list[dict[str, float]] = []
        for _ in range(rounds):
            clock.seconds.clear()
            with clock.timing("epoch"):
                epoch(job)
            seen.append({**clock.seconds, "bare": bare(job, watch, forwards, backwards)})
    for row in seen:
        row["everything else"] = row["epoch"] - sum(row.get(name, 0.0) for name in PARTS)
    shapes = [list(tensor.shape) for tensor in _tensors(watch.example[True])]
    return {
        "recipe": recipe_name,
        "overrides": list(overrides),
        "device": str(job.engine.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "calls": {"needed": [forwards, backwards], "made": [made[False], made[True]], "shapes": shapes},
        "ratio": _quartiles([(r["epoch"] - r.get("decode", 0.0) - r["reward"]) / r["bare"] for r in seen]),
        "ratio with decode and reward": _quartiles([r["epoch"] / r["bare"] for r in seen]),
        "seconds": {name: _quartiles([r.get(name, 0.0) for r in seen]) for name in ("epoch", "bare", *PARTS, "everything else")},
        "rounds": seen,
    }


def _pairs(job: Run) -> tuple[Any, Any]:
    levels = job.sampler.levels(job.policy.schedule, job.recipe.rollout.steps)
    return levels[:-1], levels[1:]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
        yield from _tensors(item)


def _quartiles(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median, "q1": low, "q3": high}


def show(found: dict[str, Any]) -> str:
    """The result for a person."""
    ratio, whole, seconds, calls = found["ratio"], found["ratio with decode and reward"], found["seconds"], found["calls"]
    lines = [
        f"{' '.join([found['recipe'], *found['overrides']])}   {found['device']}, {found['threads']} threads",
        f"  forwards without and with gradient: needed {calls['needed']}, made {calls['made']}; inputs {calls['shapes']}",
        f"  (epoch - decode - reward) / bare  {ratio['median']:.3f}  [{ratio['q1']:.3f}, {ratio['q3']:.3f}]   goal {GOAL}",
        f"  epoch / bare                      {whole['median']:.3f}  [{whole['q1']:.3f}, {whole['q3']:.3f}]",
    ]
    for name, value in seconds.items():
        share = value["median"] / seconds["epoch"]["median"]
        lines.append(f"    {name:<18}{value['median']:9.4f} s  {share:6.1%}   [{value['q1']:.4f}, {value['q3']:.4f}]")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recipes, as for tropism run")
    parser.add_argument("--recipe", action="append", help=f"a name or a file; may be repeated; {' and '.join(RECIPES)} if not given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plugin", action="append", default=[], type=Path, help="a Python file with plugin hooks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    given = parser.parse_args(arguments)
    results = []
    for name in given.recipe or RECIPES:
        results.append(measure(name, given.overrides, given.rounds, given.plugin))
        print(show(results[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
