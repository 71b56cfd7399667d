"""DSO: which method makes furniture stand, what it does to the furniture, and what it costs for each object.

On held-out pictures: the base model; the best of four of its samples by the simulator; its latents optimised at test time for a centre of
mass over the feet; and the base model trained by SFT on its own stable samples, by DPO, DRO and bounded DRO, all in the same online rounds.
A trained model counts where its geometry is the base's: of each run the last evaluation is told, and the best one whose F-score and volume
are within 5 % of the base's.

    python benchmarks/dso.py                          # three seeds, 320 held-out pictures; hours on one core
    python benchmarks/dso.py --seeds 0 --quick        # a smoke run

A run that has finished in --runs is used again, one that was stopped goes on. Writes docs/results/dso.md and dso.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rlcm_vs_ddpo import evaluations, finished
from scipy import ndimage

from tropism import api, plugins, sampling
from tropism.errors import RecipeError
from tropism.evaluate import Estimate, measure
from tropism.loop import Run
from tropism.recipe import read
from tropism.types import Rollout
from tropism_3d.rewards.stability import Stability

METHODS: Mapping[str, tuple[str, ...]] = {
    "SFT": ("optimizer={use: dro, draws: 8, anchor: 10000}", "credit={use: group}"),  # beside such an anchor the bad ones do not count
    "DPO": ("optimizer={use: dpo, beta: 10, draws: 8}", "credit={use: all-pairs}"),
    "DRO": ("optimizer={use: dro, draws: 8}", "credit={use: group}"),
    "bounded DRO": ("optimizer={use: dro, draws: 8, ceiling: 1.05}", "credit={use: group}"),
}
SHARED = ("guard=null", "evaluate.evaluators=[{use: 3d/geometry}, {use: 3d/stable}]", "evaluate.rewards=[]", "evaluate.every=2")
QUICK = ("train.iterations=1", "rollout.samples=16", "rollout.batch=16", "evaluate.every=1", "evaluate.show=0")
SHOWN = (
    "3d/stable-20",
    "3d/stable-10",
    "3d/stable-5",
    "3d/tilt",
    "3d/f-score",
    "3d/silhouette",
    "3d/volume",
    "3d/footprint",
    "3d/components",
)
OF = 4  # samples that the best is chosen of
EQUAL = 0.05  # relative change of F-score and volume up to which the geometry counts as the base's


@dataclass(frozen=True)
class Row:
    """A line of the table: estimates by name, and seconds for each object at inference."""

    name: str
    found: Mapping[str, Estimate]
    seconds: float


def held_out(job: Run, count: int = 1) -> Rollout:
    """``count`` scored samples of each held-out picture, with the noise of the run's own evaluation where it is 1."""
    items = [item for item in job.heldout_items[: job.recipe.evaluate.prompts] for _ in range(count)]
    return sampling.scored(job, sampling.condition(items, sampling.EVALUATION_SEED, 0, count))


def chosen(samples: Rollout, rows: torch.Tensor) -> Rollout:
    """Some samples, each of a prompt of its own."""
    media = {kind: value[rows] for kind, value in samples.media.items()}
    scores = {name: value[rows] for name, value in samples.scores.items()}
    return Rollout(cond=samples.cond.take(rows), x0=samples.x0[rows], steps=samples.steps, media=media, scores=scores)


def untrained(job: Run) -> list[Row]:
    """The base model, the best of four, and latents optimised at test time."""
    begin = time.perf_counter()
    base = held_out(job)
    count, spent = len(base), time.perf_counter() - begin
    rows = [Row("base", measure(base, base, job.evaluators), spent / count)]
    begin = time.perf_counter()
    several = held_out(job, OF)
    angle = torch.tensor([one.angle for one in Stability().outcomes(several.media["occupancy"])]).reshape(-1, OF)
    best = chosen(several, angle.argmin(1) + torch.arange(len(angle)) * OF)
    rows.append(Row(f"best of {OF}", measure(best, base, job.evaluators), (time.perf_counter() - begin) / count))
    begin = time.perf_counter()
    x0 = torch.cat([upright(job, part) for part in base.x0.split(job.recipe.rollout.batch)])  # beside the time of sampling
    with torch.no_grad():
        media = {kind: value.cpu() for kind, value in job.policy.decode(x0).items()}
    moved = Rollout(cond=base.cond, x0=x0, steps=base.steps, media=media)
    spent += time.perf_counter() - begin
    return [*rows, Row("test-time optimisation", measure(moved, base, job.evaluators), spent / count)]


def upright(job: Run, x0: torch.Tensor, steps: int = 60, lr: float = 0.05, tie: float = 0.005) -> torch.Tensor:
    """Latents [B, ...] moved until the centre of mass is over the middle of the feet, by Adam; ``tie`` is the weight of staying near."""
    with torch.no_grad():
        near = around_largest(job.policy.decode(x0)["occupancy"])
    moved = x0.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moved], lr=lr)
    for _ in range(steps):
        off = overhang(job.policy.decode(moved)["occupancy"] * near)
        loss = (off + tie * (moved - x0).square().flatten(1).sum(1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return moved.detach()


def around_largest(solid: torch.Tensor) -> torch.Tensor:
    """1 within two voxels of the largest part of each solid [B, N, N, N], 0 elsewhere: crumbs are no feet."""
    masks = []
    for one in (solid > 0.5).cpu().numpy():
        parts, count = ndimage.label(one)
        largest = parts == 1 + np.bincount(parts.ravel(), minlength=2)[1:].argmax() if count else one
        masks.append(torch.from_numpy(ndimage.binary_dilation(largest, iterations=2) if count else largest))
    return torch.stack(masks).to(solid)


def overhang(solid: torch.Tensor) -> torch.Tensor:
    """How far the centre of mass [B, N, N, N] is from the middle of what is lowest, in spreads of that, squared: [B], differentiable."""
    size = solid.shape[-1]
    line = (torch.arange(size, device=solid.device) + 0.5) / size
    layer = solid.amax((1, 2))
    lowest = (layer > 0.5).to(torch.uint8).argmax(1)
    feet = solid * torch.exp(-(line[None] - line[lowest][:, None]).clamp(min=0) * size)[:, None, None]
    moments = []
    for weight in (solid, feet):
        total = weight.sum((1, 2, 3)).clamp(min=1e-6)
        x, y = (weight.sum(axes) @ line / total for axes in ((2, 3), (1, 3)))
        moments.append((x, y, weight, total))
    (x, y, _, _), (fx, fy, weight, total) = moments
    spread = (weight.sum((2, 3)) * (line[None] - fx[:, None]) ** 2).sum(1) + (weight.sum((1, 3)) * (line[None] - fy[:, None]) ** 2).sum(1)
    found: torch.Tensor = ((x - fx) ** 2 + (y - fy) ** 2) / (spread / total + 1e-3)
    return found


def trained(name: str, changes: Sequence[str], root: Path, seeds: Sequence[int], console: Console) -> list[dict[str, list[float]]]:
    """The evaluations of a method's runs, one for each seed, each made once. Raises RecipeError for a run with other settings."""
    catalog, found = plugins.manager()[1], []
    for seed in seeds:
        settings = [*changes, f"seed={seed}"]
        folder = root / f"{name.replace(' ', '-')}-seed{seed}"
        if not (folder / "recipe.yaml").exists():
            api.run("3d/dso-dpo", settings, folder=folder, console=console)
        elif read(folder / "recipe.yaml") != api.load_recipe("3d/dso-dpo", catalog, settings)[0]:
            raise RecipeError(f"{folder} holds a run with other settings; give another --runs folder, or remove it")
        elif not finished(folder):
            api.resume(folder, console=console)
        if not finished(folder):
            raise KeyboardInterrupt
        found.append(evaluations(folder / "metrics.jsonl"))
    return found


def at_equal_geometry(curve: Mapping[str, Sequence[float]]) -> int:
    """The evaluation at which most stand, of those whose F-score and volume are the base's; 0, the base itself, if there is no other."""

    def equal(at: int) -> bool:
        return all(abs(curve[name][at] / curve[name][0] - 1) <= EQUAL for name in ("3d/f-score", "3d/volume"))

    return max((at for at in range(len(curve["step"])) if equal(at)), key=lambda at: curve["3d/stable-20"][at])


def over_seeds(curves: Sequence[Mapping[str, Sequence[float]]], places: Sequence[int]) -> dict[str, Estimate]:
    return {name: Estimate.of(torch.tensor([curve[name][at] for curve, at in zip(curves, places, strict=True)])) for name in SHOWN}


def page(rows: Sequence[Row], prompts: int, seeds: Sequence[int], command: str) -> str:
    """The table in Markdown."""
    names = " | ".join(name.removeprefix("3d/") for name in SHOWN)
    lines = [
        "# DSO: furniture that stands",
        "",
        f"{prompts} held-out pictures; trained methods with seeds {', '.join(map(str, seeds))}. Means with 95 % intervals: over",
        "pictures where nothing was trained, else over seeds. Generated; made by",
        "",
        f"    {command}",
        "",
        f"| | {names} | seconds an object |",
        "|---" * (len(SHOWN) + 2) + "|",
    ]
    for row in rows:
        told = [f"{e.mean:.3g} ({e.low:.3g} to {e.high:.3g})" for e in (row.found[name] for name in SHOWN)]
        lines.append(f"| {row.name} | {' | '.join(told)} | {row.seconds:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", help="changes to every recipe, such as train.lr=1e-3")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=320)
    parser.add_argument("--runs", type=Path, default=Path("runs/dso"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    prompts = 8 if args.quick else args.prompts
    changes = [*SHARED, *(QUICK if args.quick else ()), f"evaluate.prompts={prompts}", *args.changes]
    results = args.runs if args.quick else args.results
    console = Console(stderr=True)
    args.runs.mkdir(parents=True, exist_ok=True)
    (args.runs / "base.yaml").write_text(api.load_recipe("3d/dso-dpo", plugins.manager()[1], changes)[0].dump())
    rows = untrained(api.base(str(args.runs / "base.yaml")))
    told: dict[str, Any] = {}
    for name in args.methods:
        curves = trained(name, [*changes, *METHODS[name]], args.runs, args.seeds, console)
        last, best = [len(curve["step"]) - 1 for curve in curves], [at_equal_geometry(curve) for curve in curves]
        rows.append(Row(name, over_seeds(curves, last), rows[0].seconds))
        rows.append(Row(f"{name}, equal geometry", over_seeds(curves, best), rows[0].seconds))
        told[name] = [dict(curve) for curve in curves]
    results.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "benchmarks/dso.py", *sys.argv[1:]])
    (results / "dso.md").write_text(page(rows, prompts, args.seeds, command))
    table = {row.name: {"seconds": row.seconds, **{name: e.as_list() for name, e in row.found.items()}} for row in rows}
    (results / "dso.json").write_text(json.dumps({"table": table, "curves": told}, indent=1))
    console.print((results / "dso.md").read_text())


if __name__ == "__main__":
    main()
