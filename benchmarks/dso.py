"""DSO: which method makes furniture stand, what it does to the furniture, and what it costs for each object.

On held-out pictures: the base model; the best of four of its samples by the simulator; its latents moved at test time up the energy
barrier; and the base model trained by SFT on its own stable samples, by DPO, DRO and bounded DRO on the simulator's verdicts, and by the
barrier's own gradient, all with as many samples. A trained model counts where its geometry is the base's: the checkpoint told is the one at
which most stand of those whose F-score and volume are within 5 % of the base's. It is chosen on 128 pictures of 16 objects, and told on 384
pictures of 48 others; no model has seen any of these. The last checkpoint is told too, whatever its geometry.

    python benchmarks/dso.py                          # three seeds; two hours on one core
    python benchmarks/dso.py --seeds 0 --quick        # a smoke run, written into its --runs folder

A run that has finished in --runs is used again, one that was stopped goes on, and what was measured is kept there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from dso_page import page, plot
from results import keep, write
from rich.console import Console
from runs import complete

from tropism import api, checkpoint, plugins, sampling
from tropism.evaluate import Estimate, Evaluator, measure
from tropism.loop import Run
from tropism.rewards.combine import Combined, Part
from tropism.steering.ascent import Ascent
from tropism.steering.base import steer
from tropism.types import Item, Rollout
from tropism_3d.evaluators.geometry import Geometry
from tropism_3d.evaluators.stable import Stable
from tropism_3d.furniture import HELDOUT
from tropism_3d.rewards.barrier import Barrier
from tropism_3d.rewards.stability import Stability

METHODS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "SFT": ("3d/dso-dro", ("optimizer={use: dro, draws: 8, anchor: 10000}",)),  # beside such an anchor the bad ones do not count
    "DPO": ("3d/dso-dpo", ()),
    "DRO": ("3d/dso-dro", ("optimizer={use: dro, draws: 8}",)),
    "bounded DRO": ("3d/dso-dro", ()),
    "barrier": ("3d/dso-direct", ()),
}
ITERATIONS, EVERY = 16, 4
SHARED = ("guard=null", "evaluate.evaluators=[]", "evaluate.rewards=[]", "evaluate.prompts=8", "evaluate.show=0")
CHOOSING = 16  # objects by whose pictures a checkpoint is chosen
OF = 4  # samples that the best is chosen of
EQUAL = 0.05  # relative change of F-score and volume up to which the geometry counts as the base's
STANDING, SHAPE = "3d/stable-20", ("3d/f-score", "3d/volume")
Found = dict[str, list[float]]  # [mean, low, high] by name


class Bench:
    """Measurements on the two sets of pictures, each kept in a file; the base model's samples of both."""

    def __init__(self, root: Path, quick: bool) -> None:
        self.root, self.quick, self.console = root / "quick" if quick else root, quick, Console(stderr=True)
        self.base = api.base("3d/dso-direct")
        items = self.base.heldout_items
        self.items: dict[str, list[Item]] = {
            "choosing": [item for place, item in enumerate(items) if place % HELDOUT < CHOOSING],
            "telling": [item for place, item in enumerate(items) if place % HELDOUT >= CHOOSING],
        }
        if quick:
            self.items = {name: chosen[:4] for name, chosen in self.items.items()}
        self.samples: dict[str, Rollout] = {}
        self.evaluators: dict[str, list[Evaluator]] = {name: [Stable(), Geometry()] for name in self.items}

    def of_base(self, which: str) -> Rollout:
        if which not in self.samples:
            self.samples[which] = made(self.base, self.items[which])
        return self.samples[which]

    def measured(self, samples: Rollout, which: str) -> Found:
        return {name: value.as_list() for name, value in measure(samples, self.of_base(which), self.evaluators[which]).items()}

    def kept(self, folder: Path, name: str, work: Callable[[], Any]) -> Any:
        """What ``work`` gives, from the file of that name if it is there: in a run's own folder, so that it goes with the run."""
        file = folder / "measured" / f"{name}.json"
        if not file.exists():
            keep(file, work())
            self.console.print(f"{folder.name} {name}: measured", highlight=False)
        return json.loads(file.read_text())

    def trained(self, name: str, seed: int) -> Path:
        """The folder of a method's finished run. Raises RecipeError for a run with other settings."""
        recipe, changes = METHODS[name]
        iterations, every = (2, 1) if self.quick else (ITERATIONS, EVERY)
        small = ("rollout.samples=16", "rollout.batch=16") if self.quick else ()
        schedule = (f"train.iterations={iterations}", f"evaluate.every={iterations}", f"save={{every: {every}, keep: 1000}}")
        settings = [*SHARED, *schedule, *small, *changes, f"seed={seed}"]
        folder = self.root / f"{name.replace(' ', '-')}-seed{seed}"
        complete(folder, recipe, settings, api.load_recipe(recipe, plugins.manager()[1], settings)[0], "--runs folder", self.console)
        return folder

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """A method's run with one seed: every checkpoint on the choosing pictures, the chosen and the last one on the telling ones."""
        folder = self.trained(name, seed)
        job = api.trained(folder)
        places = [0, *(int(step.name.split("-")[1]) for step in checkpoint.steps(folder / "checkpoints"))]
        curve = [self.kept(folder, f"{place}-choosing", lambda at=place: self._at(job, folder, at, "choosing")) for place in places]
        best = chosen(curve)
        told = {
            when: self.kept(folder, f"{places[at]}-telling", lambda at=at: self._at(job, folder, places[at], "telling"))
            for when, at in (("chosen", best), ("last", len(places) - 1))
        }
        seconds = json.loads((folder / "summary.json").read_text())["phases"]
        return {
            "steps": places,
            "curve": curve,
            "step": places[best],
            **told,
            "seconds": sum(seconds[n] for n in ("rollout", "score", "update")),
        }

    def _at(self, job: Run, folder: Path, place: int, which: str) -> Found:
        if place == 0:
            return self.measured(self.of_base(which), which)
        job.trainable.load_state_dict(checkpoint.load(checkpoint.step_folder(folder / "checkpoints", place))["trainable"])
        with job.trainable.averaged():
            return self.measured(made(job, self.items[which]), which)


def made(job: Run, items: Sequence[Item], count: int = 1) -> Rollout:
    """``count`` samples of each item, with the noise of evaluations, without any reward: that is what inference takes."""
    cond = sampling.condition([item for item in items for _ in range(count)], sampling.EVALUATION_SEED, 0, count)
    size, steps = job.recipe.rollout.batch, job.recipe.rollout.steps
    batches = (sampling.encoded(job, cond.pick(range(first, min(first + size, len(cond))))) for first in range(0, len(cond), size))
    return Rollout.cat([sampling.batch(job, batch, job.evaluation_sampler, steps, range(0)) for batch in batches])


def taken(samples: Rollout, rows: torch.Tensor) -> Rollout:
    """Some samples, each of a prompt of its own."""
    media = {kind: value[rows] for kind, value in samples.media.items()}
    return Rollout(cond=samples.cond.take(rows), x0=samples.x0[rows], steps=samples.steps, media=media)


def chosen(curve: Sequence[Mapping[str, Sequence[float]]]) -> int:
    """The checkpoint at which most stand, of those whose F-score and volume are the base's; 0, the base itself, if there is no other."""
    means = [{name: found[name][0] for name in (STANDING, *SHAPE)} for found in curve]
    equal = [at for at, now in enumerate(means) if all(abs(now[name] / means[0][name] - 1) <= EQUAL for name in SHAPE)]
    return max(equal, key=lambda at: means[at][STANDING])


def untrained(bench: Bench) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The base model, the best of four, and latents moved at test time: what is found, and seconds an object."""
    items = bench.items["telling"]

    def timed(samples: Callable[[], Rollout]) -> dict[str, Any]:
        begin = time.process_time()
        found = samples()
        return {"seconds": (time.process_time() - begin) / len(items), "found": bench.measured(found, "telling")}

    yield "base", lambda: timed(lambda: bench.of_base("telling"))
    yield f"best of {OF}", lambda: timed(lambda: steadiest(bench.base, items))
    yield "test-time optimisation", lambda: timed(lambda: climb(bench.base, items))


def steadiest(job: Run, items: Sequence[Item]) -> Rollout:
    """Of OF samples of each item the one that tilts least in the simulator."""
    several = made(job, items, OF)
    angle = torch.tensor([one.angle for one in Stability().outcomes(several.media["occupancy"])]).reshape(-1, OF)
    return taken(several, angle.argmin(1) + torch.arange(len(angle)) * OF)


def climb(job: Run, items: Sequence[Item]) -> Rollout:
    """A sample of each item, from the noise of evaluations, moved up the energy barrier."""
    cond = sampling.encoded(job, sampling.condition(list(items), sampling.EVALUATION_SEED, 0, 1))
    rewards = Combined([Part("3d/barrier", Barrier())])
    return steer(job.policy, cond, job.sampler, job.recipe.rollout.steps, rewards, Ascent(), chunk=job.recipe.rollout.batch).rollout(cond)


def over_seeds(runs: Sequence[Mapping[str, Sequence[float]]]) -> Found:
    return {name: Estimate.of(torch.tensor([run[name][0] for run in runs])).as_list() for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/dso"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only-runs", action="store_true", help="make and measure the runs, and write no results")
    args = parser.parse_args()
    bench = Bench(args.runs, args.quick)
    rows: list[dict[str, Any]] = []
    if not args.only_runs:
        rows += [{"name": name, **bench.kept(bench.root, name.replace(" ", "-"), work)} for name, work in untrained(bench)]
    curves: dict[str, Any] = {}
    for name in args.methods:
        runs = [bench.run(name, seed) for seed in args.seeds]
        curves[name] = runs
        if rows:
            training = sum(run["seconds"] for run in runs) / len(runs)
            for when, words in (("chosen", name), ("last", f"{name}, last")):
                found = over_seeds([run[when] for run in runs])
                steps = [run["step"] if when == "chosen" else run["steps"][-1] for run in runs]
                rows.append({"name": words, "found": found, "seconds": rows[0]["seconds"], "training": training, "steps": steps})
    if rows:
        command = shlex.join(["python", "benchmarks/dso.py", *sys.argv[1:]])
        sizes = {which: len(items) for which, items in bench.items.items()}
        found = {"command": command, "pictures": sizes, "seeds": args.seeds, "rows": rows, "curves": curves}
        write(args.runs if args.quick else args.results, "dso", found, page(found), lambda file: plot(found, file))


if __name__ == "__main__":
    main()
