"""RLCM against DDPO: what a reward query, and what a second, buys with a consistency model and with the diffusion model it came from.

For each task and seed both recipes run with the same data, the same number of reward queries and evaluations on the same prompts and
seeds, without a guard. Where several learning rates are given, both methods choose theirs from the same list, by the trained reward at the
end of a run with a seed that is not compared. Curves are means over seeds with Student's 95 % interval. Seconds are those of training:
rollouts, rewards, updates and checkpoints, without evaluations.

    python benchmarks/rlcm_vs_ddpo.py                                     # hours on two cores; writes docs/results/rlcm_vs_ddpo.*
    python benchmarks/rlcm_vs_ddpo.py train.iterations=40 --lr 3e-4 1e-3 3e-3
    python benchmarks/rlcm_vs_ddpo.py --quick                             # a smoke run, written into its --runs folder

A run that has finished in --runs is used again, one that was stopped goes on, so this can be stopped and started at will.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curves import average, plot, table
from results import write
from rich.console import Console
from runs import Curve, complete, evaluations

from tropism import api, plugins
from tropism.errors import RecipeError
from tropism.recipe import Recipe

METHODS = ("rlcm", "ddpo")
RECIPES = "image/{method}-{task}"
# What both methods have where the recipe of one goes further than the paper that is compared.
ALIKE = {
    "compress": (
        "rewards=[{use: image/jpeg-size, weight: -1}, {use: image/alignment, weight: 7}]",
        "evaluate.rewards=[{use: image/alignment-b}]",
        "optimizer={use: policy-gradient, clip: 1e-4, advantage_clip: 10}",
        "adapter={kind: lora, rank: 16, alpha: 32, targets: [to_q, to_k, to_v, to_out.0, conv1, conv2]}",
        "train.decay=0",
    ),
}
GRID_SEED = 1000  # of the runs that choose a learning rate
QUICK = (
    "train.iterations=2",
    "rollout.samples=8",
    "rollout.batch=8",
    "evaluate.every=1",
    "evaluate.prompts=2",
    "evaluate.per_prompt=2",
    "evaluate.evaluators=[]",
    "save.every=1",
)


class Comparison:
    """Runs by task, method, learning rate and seed, each made once."""

    def __init__(self, root: Path, recipes: str, overrides: Sequence[str], steps: int | None = None) -> None:
        self.root, self.recipes, self.overrides, self.steps = root, recipes, overrides, steps
        self.catalog = plugins.manager()[1]
        self.console = Console(stderr=True)

    def recipe(self, task: str, method: str, lr: float, seed: int) -> tuple[str, list[str], Recipe]:
        name = self.recipes.format(method=method, task=task)
        own = [f"rollout.steps={self.steps}"] if method == "ddpo" and self.steps else []
        alike = ALIKE.get(task, ()) if self.recipes == RECIPES else ()
        changes = [*alike, *self.overrides, *own, "guard=null", f"train.lr={lr!r}", f"seed={seed}"]
        return name, changes, api.load_recipe(name, self.catalog, changes)[0]

    def curve(self, task: str, method: str, lr: float, seed: int) -> Curve:
        """The evaluations of a run. Raises RecipeError where the folder holds a run with other settings."""
        name, changes, wanted = self.recipe(task, method, lr, seed)
        folder = self.root / f"{task}-{method}-lr{lr:g}-seed{seed}"
        complete(folder, name, changes, wanted, "--runs folder", self.console)
        return evaluations(folder / "metrics.jsonl")

    def chosen(self, task: str, method: str, rates: Sequence[float]) -> tuple[float, dict[float, float]]:
        """The learning rate whose run ends with the best trained reward, and what each rate reached."""
        if len(rates) == 1:
            return rates[0], {}
        metric, weight = self.trained(task)
        reached = {lr: self.curve(task, method, lr, GRID_SEED)[metric][-1] for lr in rates}
        return max(rates, key=lambda lr: weight * reached[lr]), reached

    def trained(self, task: str) -> tuple[str, float]:
        """The reward that a task trains on, and its weight."""
        part = self.recipe(task, METHODS[0], 1e-3, 0)[2].rewards[0]
        return part.use, part.weight

    def refuse_unequal(self, task: str) -> None:
        """Raises RecipeError where the methods would differ in data, rewards or the number of reward queries."""
        one, other = (self.recipe(task, method, 1e-3, 0)[2] for method in METHODS)
        pairs = {
            "data": (one.data, other.data),
            "rewards": (one.rewards, other.rewards),
            "evaluate": (one.evaluate, other.evaluate),
            "reward queries": (one.arithmetic()["samples in all"], other.arithmetic()["samples in all"]),
        }
        if unequal := [f"{name}: {a} and {b}" for name, (a, b) in pairs.items() if a != b]:
            raise RecipeError(f"{one.name} and {other.name} cannot be compared; " + "; ".join(unequal))


def compare(comparison: Comparison, tasks: Sequence[str], seeds: Sequence[int], rates: Sequence[float]) -> dict[str, Any]:
    """All that the table and the plot show, by task and method."""
    results: dict[str, Any] = {}
    for task in tasks:
        comparison.refuse_unequal(task)
        trained, weight = comparison.trained(task)
        results[task] = {"trained": trained, "weight": weight, "methods": {}}
        for method in METHODS:
            lr, reached = comparison.chosen(task, method, rates)
            runs: Mapping[int, Curve] = {seed: comparison.curve(task, method, lr, seed) for seed in seeds}
            results[task]["methods"][method] = {
                "recipe": comparison.recipes.format(method=method, task=task),
                "lr": lr,
                "lr grid": [{"lr": rate, "reached": value} for rate, value in reached.items()],
                "seeds": {str(seed): curve for seed, curve in runs.items()},
                "curves": average(list(runs.values())),
            }
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to every recipe")
    parser.add_argument("--tasks", nargs="+", default=["compress", "align"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--lr", nargs="+", type=float, default=[1e-3], help="learning rates that both methods choose from")
    parser.add_argument("--ddpo-steps", type=int, help="sampler steps of DDPO, if not its recipe's; half of them halve its seconds")
    parser.add_argument("--recipes", default=RECIPES, help="the recipes' names or files, with {method} and {task}")
    parser.add_argument("--runs", type=Path, default=Path("runs/rlcm_vs_ddpo"))
    parser.add_argument("--out", type=Path, help="where results are written; docs/results if not given, with --quick the --runs folder")
    parser.add_argument("--quick", action="store_true", help="two tiny iterations of one seed")
    given = parser.parse_args(words)
    comparison = Comparison(given.runs, given.recipes, [*(QUICK if given.quick else ()), *given.overrides], given.ddpo_steps)
    results = compare(comparison, given.tasks, given.seeds[:1] if given.quick else given.seeds, given.lr)
    out = given.out or (given.runs if given.quick else Path("docs/results"))
    line = shlex.join(["python", "benchmarks/rlcm_vs_ddpo.py", *words])
    write(out, "rlcm_vs_ddpo", {"command": line, "tasks": results}, table(results, line), lambda file: plot(results, file))


if __name__ == "__main__":
    main()
