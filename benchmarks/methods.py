"""The online methods side by side on the shipped emoji models: what equal numbers of reward queries, and equal seconds, buy.

Every method trains on one differentiable reward, small files that still fit their prompt (``TRAINED``), with the same prompts, and is
evaluated by the same sampler on the same prompts and seeds. The same sum of the true file size and a second scorer (``HELD_OUT``),
diversity and the distance to the base model are only watched. The baseline is the plain model. Back-propagating methods take the reward's
gradient at the samples that they scored: a query that gives more, not a second query. Seconds are those of training: rollouts, rewards,
updates, checkpoints.

    python benchmarks/methods.py runs/methods                                  # everything but the teacher; hours on one core
    python benchmarks/methods.py --model flow --methods nft awm --queries 640 runs/short
    python benchmarks/methods.py --sweep --results docs/results runs/methods   # learning rates chosen first, with a seed of their own

A run that has finished in OUT is used again, one that was stopped goes on. Several of these may work in one OUT at a time, each on its own
models; a last one with all of them writes the results.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from curves import average, plot
from methods_page import page
from overhead import epoch
from results import write
from rich.console import Console
from runs import complete, evaluations, finished
from stopwatch import first

from tropism import api, plugins
from tropism.errors import RecipeError
from tropism.loop import Run
from tropism.progress import Progress
from tropism.recipe import Evaluate, Recipe

BASE = "image/rlcm-align"
TRAINED = {"image/jpeg-estimate": -1.0, "image/alignment": 4.2}  # the metrics and weights of what is trained on
HELD_OUT = {"image/jpeg-size": -1.0, "image/alignment-b": 4.2}  # and of what stands for it and is not trained on
REWARD, HELD_OUT_REWARD = "reward", "held-out reward"  # their names as sums
REWARDS = "rewards=[{use: image/jpeg-estimate, weight: -1}, {use: image/alignment, weight: 4.2}]"
WATCHED = "evaluate.rewards=[{use: image/jpeg-size, better: lower}, {use: image/alignment-b}]"
SHARED = (
    "guard=null",
    REWARDS,
    WATCHED,
    "evaluate.evaluators=[{use: image/diversity}, {use: base-distance}]",
    "rollout.samples=64",
    "rollout.batch=64",
    "save.every=10",
)
SWEEP_SEED = 10  # of the runs that choose a learning rate; not compared
RATES = (3e-4, 1e-3, 3e-3)  # what every method chooses from

POLICY_GRADIENT = "optimizer={use: policy-gradient, clip: 1e-4, advantage_clip: 10}"
DIRECT = "optimizer={use: direct, last: 1}"
SIBLINGS = ("rollout.group=8", "credit={use: group, scale: batch}")
ALONE = ("rollout.group=1", "credit={use: batch}")  # no advantages are needed, so every sample has a prompt of its own


@dataclass(frozen=True)
class Method:
    """What it is in words, its learning rate where none is swept, and its changes to the model's recipe."""

    words: str
    lr: float
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    words: str
    changes: tuple[str, ...]
    methods: Mapping[str, Method]


STUDENT = Model(
    "the consistency student, 4 steps, guidance 3 by embedding",
    (
        "policy={use: image/emoji-lcm, guidance: 3.0}",
        "rollout.sampler={use: consistency}",
        "rollout.steps=4",
        "evaluate.sampler={use: consistency}",
    ),
    {
        "rlcm": Method("RLCM: policy gradient on the three noisy steps", 2e-3, (POLICY_GRADIENT, *SIBLINGS)),
        "rlcm-direct": Method(
            "RLCM with back-propagation through the last step",
            1e-3,
            ("optimizer={use: rlcm-direct, clip: 1e-4, advantage_clip: 10, direct: 1.0}", *SIBLINGS),
        ),
        "draft-1": Method("DRaFT-1: back-propagation through the last step alone", 1e-3, (DIRECT, *ALONE)),
    },
)
FLOW = Model(
    "the rectified-flow model, 8 steps, no guidance; evaluated by the ODE",
    (
        "policy={use: image/emoji-flow, guidance: 1.0}",
        "adapter.targets=[to_q, to_k, to_v, to_out.0, add_q_proj, add_k_proj, add_v_proj, to_add_out, ff.net.0.proj, ff.net.2]",
        "rollout.steps=8",
        "evaluate.sampler={use: ode}",
    ),
    {
        "flow-grpo": Method(
            "Flow-GRPO: policy gradient on the seven noisy steps of the flow SDE",
            1e-3,
            ("rollout.sampler={use: flow-sde, noise: 0.7}", POLICY_GRADIENT, *SIBLINGS),
        ),
        "flow-grpo-window": Method(
            "Flow-GRPO in a window: two SDE steps at a place that changes, the others by the ODE",
            1e-3,
            (
                "rollout.sampler={use: flow-sde, noise: 0.7}",
                "rollout.window={size: 2, place: random, last: 5}",
                POLICY_GRADIENT,
                *SIBLINGS,
            ),
        ),
        "nft": Method(
            "DiffusionNFT: forward process, ODE rollouts",
            1e-3,
            ("rollout.sampler={use: ode}", "optimizer={use: nft, beta: 1.0, draws: 4, decay: slow, kl: 1e-4}", *SIBLINGS),
        ),
        "awm": Method(
            "advantage-weighted matching, ODE rollouts",
            1e-3,
            ("rollout.sampler={use: ode}", "optimizer={use: awm, draws: 4, kl: 3e-3}", *SIBLINGS),
        ),
        "draft-1": Method("DRaFT-1: back-propagation through the last ODE step", 1e-3, ("rollout.sampler={use: ode}", DIRECT, *ALONE)),
    },
)
TEACHER = Model(
    "the diffusion teacher, DDIM with eta 1, 10 steps, guidance 3 by a second forward",
    (
        "policy={use: image/emoji-sd, guidance: 3.0}",
        "rollout.sampler={use: ddim, eta: 1.0}",
        "rollout.steps=10",
        "evaluate.sampler={use: ddim, eta: 1.0}",
    ),
    {
        "ddpo": Method("DDPO: policy gradient on the nine noisy steps", 1e-3, (POLICY_GRADIENT, *SIBLINGS)),
        "draft-1": Method("DRaFT-1: back-propagation through the last step", 1e-3, (DIRECT, *ALONE)),
    },
)
MODELS: dict[str, Model] = {"student": STUDENT, "flow": FLOW, "teacher": TEACHER}


class Comparison:
    """Runs by model, method, learning rate and seed, each made once."""

    def __init__(self, root: Path, queries: int, evaluated: int, overrides: Sequence[str]) -> None:
        self.root, self.queries, self.evaluated, self.overrides = root, queries, evaluated, overrides
        self.manager, self.catalog = plugins.manager()
        self.console = Console(stderr=True)

    def changes(self, model: str, method: str, lr: float, seed: int) -> list[str]:
        """The overrides of ``BASE`` that make one run. Raises RecipeError where the queries are no whole number of iterations."""
        chosen = MODELS[model]
        fixed = [*SHARED, *chosen.changes, *chosen.methods[method].changes, *self.overrides, f"train.lr={lr!r}", f"seed={seed}"]
        samples = api.load_recipe(BASE, self.catalog, fixed)[0].rollout.samples
        iterations, rest = divmod(self.queries, samples)
        if rest or not iterations:
            raise RecipeError(f"--queries {self.queries} is no multiple of the {samples} samples of an iteration of {model} {method}")
        return [*fixed, f"train.iterations={iterations}", f"evaluate.every={-(-iterations // self.evaluated)}"]

    def recipe(self, model: str, method: str, lr: float = 1e-3, seed: int = 0) -> Recipe:
        return api.load_recipe(BASE, self.catalog, self.changes(model, method, lr, seed))[0]

    def folder(self, model: str, method: str, lr: float, seed: int) -> Path:
        return self.root / f"{model}-{method}-lr{lr:g}-seed{seed}"

    def device(self, model: str, method: str, lr: float, seed: int) -> str:
        """What a run was made on, in its own words."""
        return str(json.loads((self.folder(model, method, lr, seed) / "env.json").read_text())["device"])

    def curve(self, model: str, method: str, lr: float, seed: int) -> dict[str, list[float]]:
        """The evaluations of a run. Raises RecipeError where the folder holds a run with other settings."""
        folder = self.folder(model, method, lr, seed)
        if not finished(folder):
            self.console.print(f"[bold]{folder.name}[/bold]{' goes on' if (folder / 'recipe.yaml').exists() else ''}")
        complete(folder, BASE, self.changes(model, method, lr, seed), self.recipe(model, method, lr, seed), "OUT", self.console)
        return summed(evaluations(folder / "metrics.jsonl"))

    def swept(self, model: str, method: str) -> list[dict[str, float]]:
        """What each learning rate reaches on seed ``SWEEP_SEED``: the trained reward, and the one held out."""
        curves = {lr: self.curve(model, method, lr, SWEEP_SEED) for lr in RATES}
        return [{"lr": lr, "trained": curve[REWARD][-1], "watched": curve[HELD_OUT_REWARD][-1]} for lr, curve in curves.items()]

    def forwards(self, model: str, method: str) -> dict[str, float]:
        """Rows that go through the network for each sample, counted in one iteration; kept in OUT."""
        file = self.root / "forwards" / f"{model}-{method}.json"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            recipe = self.recipe(model, method).model_copy(update={"evaluate": Evaluate(), "track": ()})
            with tempfile.TemporaryDirectory() as folder:
                job = Run(recipe, Path(folder), self.manager, self.catalog, Progress(Console(quiet=True)))
                file.write_text(json.dumps(counted(job)))
        found: dict[str, float] = json.loads(file.read_text())
        return found

    def refuse_unequal(self, model: str, methods: Sequence[str]) -> None:
        """Raises RecipeError where methods would differ in what is compared: policy, data, rewards, evaluation, steps."""
        recipes = {method: self.recipe(model, method) for method in methods}
        one = recipes[methods[0]]
        for name, other in recipes.items():
            for what in ("policy", "data", "rewards", "evaluate", "adapter"):
                if getattr(one, what) != getattr(other, what):
                    raise RecipeError(f"{model}: {methods[0]} and {name} cannot be compared; they differ in {what}")
            if one.rollout.steps != other.rollout.steps:
                raise RecipeError(f"{model}: {methods[0]} and {name} cannot be compared; they differ in rollout.steps")


def summed(curve: dict[str, list[float]]) -> dict[str, list[float]]:
    """The curve with the two sums, trained and held out, before their parts."""
    sums = {
        name: [sum(weight * curve[metric][at] for metric, weight in weights.items()) for at in range(len(curve["step"]))]
        for name, weights in ((REWARD, TRAINED), (HELD_OUT_REWARD, HELD_OUT))
    }
    return {**sums, **curve}


def counted(job: Run) -> dict[str, float]:
    """Rows through the network for each sample in an iteration of ``job``: without gradient and with it. Guidance's second row counts."""
    rows = {False: 0, True: 0}

    def count(network: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if "forward" not in vars(network):  # a pipeline that is only looked at does not run its network
            rows[torch.is_grad_enabled()] += len(first(output))

    hook = job.policy.trainable().register_forward_hook(count)
    epoch(job)
    hook.remove()
    samples = job.recipe.rollout.samples
    return {"without gradient": rows[False] / samples, "with gradient": rows[True] / samples}


def compare(comparison: Comparison, models: Sequence[str], wanted: Sequence[str], seeds: Sequence[int], sweep: bool) -> dict[str, Any]:
    """All that the page and the plot show, by model and method."""
    chosen = {model: [name for name in MODELS[model].methods if name in wanted] for model in models}
    results: dict[str, Any] = {}
    for model, methods in chosen.items():
        if not methods:
            continue
        comparison.refuse_unequal(model, methods)
        results[model] = {"words": MODELS[model].words, "trained": REWARD, "weight": 1.0, "watched": HELD_OUT_REWARD, "methods": {}}
        for method in methods:
            grid = comparison.swept(model, method) if sweep else []
            lr = max(grid, key=lambda row: row["trained"])["lr"] if grid else MODELS[model].methods[method].lr
            runs = {seed: comparison.curve(model, method, lr, seed) for seed in seeds}
            results[model]["methods"][method] = {
                "words": MODELS[model].methods[method].words,
                "changes": comparison.changes(model, method, lr, seeds[0]),
                "lr": lr,
                "lr grid": grid,
                "forwards": comparison.forwards(model, method),
                "devices": sorted({comparison.device(model, method, lr, seed) for seed in seeds}),
                "seeds": {str(seed): curve for seed, curve in runs.items()},
                "curves": average(list(runs.values())),
            }
        refuse_other_weights(model, results[model])
    return results


def refuse_other_weights(model: str, found: Mapping[str, Any]) -> None:
    """Raises RecipeError where the base models of the runs were not one and the same, as when OUT is older than the shipped weights."""
    metric = found["trained"]
    bases = {f"{name} seed {seed}": curve[metric][0] for name, m in found["methods"].items() for seed, curve in m["seeds"].items()}
    low, high = min(bases, key=lambda run: bases[run]), max(bases, key=lambda run: bases[run])
    if bases[high] - bases[low] > 1e-3:  # other numbers of threads round otherwise, by far less
        raise RecipeError(
            f"{model}: the base model has {metric} {bases[low]:.4f} in {low}, but {bases[high]:.4f} in {high}: the weights have changed "
            "between them; give another OUT, or remove the older runs"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    names = list(dict.fromkeys(name for model in MODELS.values() for name in model.methods))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="where the runs are, and the results if --results is not given")
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=["student", "flow"])
    parser.add_argument("--methods", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--queries", type=int, default=2560, help="reward queries of a run")
    parser.add_argument("--evaluations", type=int, default=5, help="evaluations of a run, without that of the base model")
    parser.add_argument("--sweep", action="store_true", help=f"choose learning rates from {RATES} on seed {SWEEP_SEED} and use them")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to every recipe")
    parser.add_argument("--results", type=Path, help="where methods.json, .md and .svg are written")
    given = parser.parse_intermixed_args(words)
    comparison = Comparison(given.out, given.queries, given.evaluations, given.set)
    results = compare(comparison, given.model, given.methods, given.seeds, given.sweep)
    if not results:
        parser.error(f"none of the methods {', '.join(given.methods)} runs on {', '.join(given.model)}")
    line = shlex.join(["python", "benchmarks/methods.py", *words])
    sums = {"trained": TRAINED, "held_out": HELD_OUT}
    found = {"command": line, **sums, "queries": given.queries, "sweep seed": SWEEP_SEED if given.sweep else None, "models": results}
    write(given.results or given.out, "methods", found, page(found), lambda file: plot(results, file))


if __name__ == "__main__":
    main()
