"""Curves over seeds: their mean with Student's 95 % interval, as a plot and as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tropism.evaluate import Estimate

AXES = ("step", "samples", "seconds")
COLOURS = {  # of Okabe and Ito, told apart also by the colour-blind; methods of different models may share one
    "rlcm": "#0072b2",
    "ddpo": "#d55e00",
    "rlcm-direct": "#cc79a7",
    "draft-1": "#000000",
    "flow-grpo": "#d55e00",
    "flow-grpo-window": "#e69f00",
    "nft": "#0072b2",
    "awm": "#009e73",
}


def average(runs: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """One list per axis (mean over runs) and per metric ([mean, low, high] at each evaluation). All runs have the same evaluations."""
    if any(run["step"] != runs[0]["step"] for run in runs):
        raise ValueError(f"the runs were evaluated at different steps: {[list(run['step']) for run in runs]}")
    found: dict[str, Any] = {}
    for name in runs[0]:
        values = torch.tensor([list(run[name]) for run in runs], dtype=torch.float64)
        found[name] = values.mean(0).tolist() if name in AXES else [Estimate.of(column).as_list() for column in values.T]
    return found


def reached(curves: Mapping[str, Any], metric: str, goal: float, weight: float, axis: str) -> float | None:
    """Where on ``axis`` the mean curve first is as good as ``goal``, between evaluations by a straight line; None if nowhere."""
    places, means = curves[axis], [weight * value[0] for value in curves[metric]]
    if means[0] >= weight * goal:
        return float(places[0])
    for (x, y), (next_x, next_y) in zip(zip(places, means), zip(places[1:], means[1:])):
        if next_y >= weight * goal:
            return float(x + (next_x - x) * (weight * goal - y) / (next_y - y))
    return None


def metrics(curves: Mapping[str, Any], trained: str) -> list[str]:
    """The trained metric, then the others."""
    return [trained, *(name for name in curves if name not in AXES and name != trained)]


def table(results: Mapping[str, Any], command: str) -> str:
    """A Markdown table a task: each metric before and after by method, and what it took."""
    lines = ["# RLCM and DDPO", "", "Means over seeds with Student's 95 % interval. Generated; made by", "", f"    {command}", ""]
    for task, found in results.items():
        trained, weight, methods = found["trained"], found["weight"], found["methods"]
        one = next(iter(methods.values()))
        seeds, samples = len(one["seeds"]), int(one["curves"]["samples"][-1])
        lines += [f"## {task}", "", f"Trained on {weight:+g} x `{trained}`; {samples:,} reward queries a run; {seeds} seeds.", ""]
        lines += ["| metric | " + " | ".join(f"{m}: before | {m}: after" for m in methods) + " |", "|---" * (1 + 2 * len(methods)) + "|"]
        for name in metrics(one["curves"], trained):
            cells = [_cell(method["curves"].get(name), end) for method in methods.values() for end in (0, -1)]
            lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
        seconds = [f" | {method['curves']['seconds'][-1]:.4g}" for method in methods.values()]
        lines += ["| training seconds | " + " | ".join(seconds) + " |", ""]
        lines += [_told(name, method, methods, trained, weight) for name, method in methods.items()] + [""]
    return "\n".join(lines)


def plot(results: Mapping[str, Any], file: Path, count: str = "reward queries") -> None:
    """A row for each task's trained reward and first watched metric; against training seconds, and against ``count`` of samples.

    ``results``, by task: ``trained``, the metric, and ``methods`` with their ``curves``.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    rows = [(task, name) for task, found in results.items() for name in _shown(found)]
    plt.rcParams.update({"svg.hashsalt": "tropism", "font.size": 9})
    figure, grid = plt.subplots(len(rows), 2, figsize=(9, 2.6 * len(rows)), squeeze=False, layout="constrained")
    for (task, name), axes in zip(rows, grid):
        for axis, label, place in zip(("seconds", "samples"), ("training seconds", count), axes):
            for method, found in results[task]["methods"].items():
                mean, low, high = zip(*found["curves"][name])
                place.plot(found["curves"][axis], mean, color=COLOURS.get(method), marker=".", label=method)
                place.fill_between(found["curves"][axis], low, high, color=COLOURS.get(method), alpha=0.12, linewidth=0)
            place.set(xlabel=label, ylabel=name, title=f"{task}: {'trained' if name == results[task]['trained'] else 'only watched'}")
            place.grid(alpha=0.3)
    for row, (task, name) in enumerate(rows):
        if name == results[task]["trained"]:
            grid[row][0].legend(frameon=False)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


def _shown(found: Mapping[str, Any]) -> list[str]:
    return metrics(next(iter(found["methods"].values()))["curves"], found["trained"])[:2]


def _cell(values: Sequence[Sequence[float]] | None, end: int) -> str:
    if values is None:
        return ""
    mean, low, high = values[end]
    return f"{mean:.4g} [{low:.4g}, {high:.4g}]" if high > low else f"{mean:.4g}"


def _told(name: str, method: Mapping[str, Any], methods: Mapping[str, Any], trained: str, weight: float) -> str:
    """A line on one method: its learning rate, and when it is where another ends."""
    text = [f"- {name}: `{method['recipe']}`, learning rate {method['lr']:g}"]
    for other, rival in methods.items():
        if other != name:
            goal, end = rival["curves"][trained][-1][0], rival["curves"]["seconds"][-1]
            seconds, samples = (reached(method["curves"], trained, goal, weight, axis) for axis in ("seconds", "samples"))
            if seconds is None or samples is None:
                text.append(f"does not reach {other}'s last value of {goal:.4g}")
            elif samples == 0:
                text.append(f"begins beyond {other}'s last value of {goal:.4g}")
            else:
                text.append(f"reaches {other}'s last value of {goal:.4g} after {seconds:.4g} s and {samples:,.0f} queries")
                text.append(f"{other} took {end:.4g} s")
    return "; ".join(text) + "."
