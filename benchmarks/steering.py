"""Every steering method against best-of-N, at equal forwards and at equal seconds, on the shipped models.

Best-of-N is known for every N at once from one pool of independent samples: the best of N drawn from it has the expected reward of an
order statistic, and its held-out reward that of the sample it is. A method is compared with the N whose forwards, or seconds, are its own,
on the same prompts and seeds, and its interval is over prompts (each the mean over seeds of the differences).

    python benchmarks/steering.py runs/steering --results docs/results   # about 25 minutes on one core; writes steering.json, .md, .svg
    python benchmarks/steering.py runs/steering --model student --methods fk psp --prompts 4
    python benchmarks/steering.py runs/steering-quick --quick            # a smoke run

On a processor seconds are those of the processor, so that other work on the machine does not count. What is in OUT is used again, so this
can be stopped and started at will.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from methods import BASE
from methods import MODELS as TRAINED
from results import keep, write
from rich.console import Console
from steering_cost import cost
from steering_page import page, plot
from steering_versus import curve, summed

from tropism import api, assemble, plugins
from tropism.errors import RecipeError
from tropism.loop import Run
from tropism.progress import Progress
from tropism.recipe import Part
from tropism.rewards.slices import raw_scores
from tropism.turning.particles import steered

REWARDS = {
    "alignment": "rewards=[{use: image/alignment}]",
    "alignment and size": "rewards=[{use: image/alignment, weight: 7}, {use: image/jpeg-size, weight: -1}]",
}
HELD_OUT = "image/alignment-b"
SHARED = ("guard=null", f"evaluate.rewards=[{{use: {HELD_OUT}}}]", "evaluate.evaluators=[]", "rollout.batch=32", "rollout.group=8")
LAMBDA = 50.0  # where a method wants a number: alignment differs by about 0.03 among samples of a prompt
POOL = "best-of-n"


@dataclass(frozen=True)
class Model:
    """Its words, changes to ``BASE``, the steps of its sampler, the rewards that it is steered by with the methods for each (all if none is
    named), how many samples of a prompt are in its pool; N of the default method and of the others."""

    words: str
    changes: tuple[str, ...]
    steps: int
    rewards: Mapping[str, tuple[str, ...]]
    pool: int
    default: tuple[int, ...]
    others: tuple[int, ...]


@dataclass(frozen=True)
class Method:
    """words; arguments: what it is made with for N particles' worth of forwards and S steps; sampler: where not the model's own; where:
    models that it is for, all if empty."""

    words: str
    arguments: Callable[[int, int], dict[str, Any]]
    sampler: Mapping[str, Any] | None = None
    where: tuple[str, ...] = ()


MODELS = {
    "student": Model(
        "the consistency student, 4 steps, guidance 3 by embedding",
        TRAINED["student"].changes,
        4,
        {"alignment": (), "alignment and size": ("fk", "svdd", "psp", "bfs")},
        96,
        (2, 4, 8, 16, 32),
        (4, 8),
    ),
    "flow": Model(
        "the rectified-flow model, 8 steps of the flow SDE, no guidance",
        (*TRAINED["flow"].changes, "rollout.sampler={use: flow-sde, noise: 0.7}"),
        8,
        {"alignment": ()},
        96,
        (2, 4, 8, 16, 32),
        (4, 8),
    ),
    "teacher": Model(
        "the diffusion teacher, DDIM with eta 1, 10 steps, guidance 3 by a second forward",
        TRAINED["teacher"].changes,
        10,
        {"alignment": ()},
        48,
        (2, 4, 8),
        (4,),
    ),
}


def _square(n: int) -> dict[str, Any]:
    count = max(2, round(n**0.5))
    return {"use": "zero-order", "particles": count, "rounds": max(1, n // count)}


METHODS = {
    "fk": Method("Feynman-Kac steering with the defaults: the default method", lambda n, steps: {"use": "fk", "particles": n}),
    "fk-paper": Method(
        f"the settings of its paper: max, multinomial; lambda {LAMBDA:g}",
        lambda n, steps: {"use": "fk-paper", "particles": n, "lambda": LAMBDA},
    ),
    "fk-glass": Method(
        "fk with GLASS steps of two inner forwards",
        lambda n, steps: {"use": "fk", "particles": n // 2},
        {"use": "glass", "inner": 2},
        ("flow",),
    ),
    "tds": Method(
        "twisted: proposals follow the reward's gradient",
        lambda n, steps: {"use": "tds", "particles": n, "lambda": LAMBDA},
        where=("student", "flow"),
    ),
    "svdd": Method(
        "SVDD: chains of four candidates, the best taken",
        lambda n, steps: {"use": "svdd", "particles": max(1, n // 4), "candidates": min(n, 4)},
    ),
    "psp": Method("PSP: 2 N first noises, half and then a quarter of them kept", lambda n, steps: {"use": "psp", "particles": 2 * n}),
    "bfs": Method("BFS: children by softmax, temperature falling", lambda n, steps: {"use": "bfs", "particles": n}),
    "rollover": Method(
        "RBF: a budget of forwards that rolls over",
        lambda n, steps: {"use": "rollover", "particles": max(1, n // 2), "forwards": n * steps},
    ),
    "zero-order": Method("neighbours of the best first noise", lambda n, steps: _square(n)),
    "paths": Method("search over paths: noised again, the best go on", lambda n, steps: {"use": "paths", "particles": max(1, n * 2 // 5)}),
    "gibbs": Method(
        f"particle Gibbs, two sweeps; lambda {LAMBDA:g}",
        lambda n, steps: {"use": "gibbs", "particles": max(2, n // 2), "sweeps": 2, "lambda": LAMBDA, "select": "best"},
    ),
    "best-of-n-ode": Method(
        "best of N without noise in the steps", lambda n, steps: {"use": POOL, "particles": n}, {"use": "ode"}, ("flow", "teacher")
    ),
}
QUICK = Model(MODELS["student"].words, MODELS["student"].changes, 4, {"alignment": ()}, 8, (2,), (2,))


class Measured:
    """Measurements in OUT, each made once; a model is loaded when the first of them is missing."""

    def __init__(self, root: Path, prompts: int, overrides: Sequence[str]) -> None:
        self.root, self.prompts, self.overrides = root, prompts, list(overrides)
        self.manager, self.catalog = plugins.manager()
        self.console = Console(stderr=True)
        self.jobs: dict[tuple[str, str], Run] = {}

    def job(self, name: str, model: Model, reward: str) -> Run:
        """The model with its rewards, warm."""
        if (name, reward) not in self.jobs:
            self.jobs.clear()
            changes = [*SHARED, *model.changes, REWARDS[reward], *self.overrides]
            recipe = api.load_recipe(BASE, self.catalog, changes)[0]
            job = Run(recipe, Path(), self.manager, self.catalog, Progress(Console(quiet=True)))
            job.conditions.encode(job.heldout_items[: self.prompts])
            self.jobs[name, reward] = job
            list(steered(job, job.heldout_items[:2], assemble.make(self.catalog, "steering", Part(use="fk")), 0))
        return self.jobs[name, reward]

    def of(self, place: tuple[str, Model, str], label: str, arguments: dict[str, Any], sampler: Any, seed: int) -> dict[str, Any]:
        """One method on all prompts of a model and reward with one seed. Raises RecipeError where OUT holds it with other settings."""
        name, model, reward = place
        file = self.root / f"{name}-{reward.replace(' ', '-')}-{label}-seed{seed}.json"
        settings = {
            "model": [*model.changes, *self.overrides],
            "rewards": REWARDS[reward],
            "method": arguments,
            "sampler": sampler,
            "prompts": self.prompts,
            "seed": seed,
        }
        if file.exists():
            found: dict[str, Any] = json.loads(file.read_text())
            if found["settings"] != json.loads(json.dumps(settings)):
                raise RecipeError(f"{file} was measured with other settings; give another OUT, or remove it")
            return found
        job = self.job(name, model, reward)
        own = job.sampler
        try:
            if sampler is not None:
                job.sampler = assemble.make(self.catalog, "samplers", Part.model_validate(sampler))
            made = measure(job, self.prompts, assemble.make(self.catalog, "steering", Part.model_validate(arguments)), seed)
        finally:
            job.sampler = own
        found = {"settings": settings, **made}
        keep(file, found)
        self.console.print(f"{file.stem}: {found['seconds']:.3f} s a prompt", highlight=False)
        return found


def used(device: torch.device) -> float:
    """Seconds: of the processor on a processor, of the clock once a GPU has done its work."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(job: Run, prompts: int, method: Any, seed: int) -> dict[str, Any]:
    """Steer the first ``prompts`` held-out items. Rewards [prompts][n] of what was chosen, and what it took for each prompt."""
    items = job.heldout_items[:prompts]
    parts, seconds, forwards, calls = steered(job, items, method, seed), 0.0, 0, 0
    found: dict[str, list[Any]] = {"reward": [], "held out": [], "roots": []}
    while True:
        begin = used(job.engine.device)
        part = next(parts, None)
        seconds += used(job.engine.device) - begin
        if part is None:
            break
        cond, made = part
        chosen, count = made.rollout(cond), len(made.chosen)
        watched = raw_scores(job.watched, chosen, job.recipe.rollout.batch, job.engine.device)[HELD_OUT]
        found["reward"] += made.reward.gather(1, made.chosen).tolist()
        found["held out"] += watched.reshape(count, -1).tolist()
        found["roots"] += made.roots.tolist()
        forwards, calls = forwards + made.forwards, calls + made.calls
    return {
        **found,
        "seconds": seconds / len(items),
        "forwards": forwards / len(items),
        "calls": calls / len(items),
        "device": str(job.engine.device),
    }


def compare(measured: Measured, models: Mapping[str, Model], wanted: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """All that the page and the plot show, by model and reward."""
    results: dict[str, Any] = {}
    for name, model in models.items():
        for reward, fit in model.rewards.items():
            place, whole = (name, model, reward), {"use": POOL, "particles": model.pool, "select": "all"}
            pools = [measured.of(place, "pool", whole, None, seed) for seed in seeds]
            rows = []
            for label, method in METHODS.items():
                if label not in wanted or (method.where and name not in method.where) or (fit and label not in fit):
                    continue
                for n in model.default if label == "fk" else model.others:
                    arguments = method.arguments(n, model.steps)
                    runs = [measured.of(place, f"{label}-{n}", arguments, method.sampler, seed) for seed in seeds]
                    rows.append({"method": label, "words": method.words, "n": n, "arguments": arguments, **summed(runs, pools)})
            results[f"{name}, {reward}"] = {"words": model.words, "pool": curve(pools), "rows": rows, "device": pools[0]["device"]}
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="where measurements are, and the results if --results is not given")
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=12, help="held-out prompts")
    parser.add_argument("--rounds", type=int, default=5, help="of the measurement of cost")
    parser.add_argument("--quick", action="store_true", help="the student on two prompts with two particles, one round of cost")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the recipe of every model")
    parser.add_argument("--results", type=Path, help="where steering.json, .md and .svg are written")
    given = parser.parse_intermixed_args(words)
    models = {"student": QUICK} if given.quick else {name: MODELS[name] for name in given.model}
    prompts, rounds = (2, 1) if given.quick else (given.prompts, given.rounds)
    measured = Measured(given.out, prompts, given.set)
    results = compare(measured, models, given.methods, given.seeds)
    first, model = next(iter(models.items()))
    price = cost(
        given.out / "cost.json",
        lambda: measured.job(first, model, next(iter(model.rewards))),
        rounds,
        [1, 2] if given.quick else [1, 2, 4, 8, 16, 32],
    )
    line = shlex.join(["python", "benchmarks/steering.py", *words])
    found = {"command": line, "prompts": prompts, "seeds": given.seeds, "models": results, "cost": {"model": first, **price}}
    write(given.results or given.out, "steering", found, page(found), lambda file: plot(results, file))


if __name__ == "__main__":
    main()
