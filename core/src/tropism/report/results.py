"""What a run achieved: every metric before and after, what part it played, and the result in one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tropism.report.read import Change, Interval, Point, Run
from tropism.report.words import TIMES, change, number, short

Role = Literal["trained", "held out", "diversity", "distance"]
ROLES: tuple[Role, ...] = ("trained", "held out", "diversity", "distance")
EVAL, REWARD, TIME = "eval/", "reward/", "time/"
MOST_HELD_OUT = 3  # in the sentence; the table has all


@dataclass(frozen=True)
class Result:
    """One row of the before/after table."""

    name: str
    role: Role
    unit: str
    before: Interval
    after: Interval

    @property
    def change(self) -> str:
        """The change of the mean, in words."""
        return change(self.before, self.after)

    @property
    def overlap(self) -> bool:
        """Whether the two intervals overlap, so that the change may be chance."""
        ends = (self.before.low, self.before.high, self.after.low, self.after.high)
        if any(end is None or not math.isfinite(end) for end in ends):
            return False
        b_low, b_high, a_low, a_high = (float(end) for end in ends if end is not None)
        return b_low <= a_high and a_low <= b_high


def trained(run: Run) -> set[str]:
    """Names of the trained rewards; while there is no summary, those that the training loop logs."""
    if run.summary:
        return set(run.summary.trained)
    return {name.removeprefix(REWARD) for name in run.series if name.startswith(REWARD)} - {"combined"}


def role(name: str, trained: set[str]) -> Role:
    """The part a metric plays; what is neither trained nor a measure of collapse counts as held out."""
    if name in trained:
        return "trained"
    last = short(name)
    if "diversity" in last:
        return "diversity"
    return "distance" if "distance" in last or "frechet" in last else "held out"


def evaluated(run: Run) -> dict[str, list[Point]]:
    """The evaluation curves by metric name, without those of the interval bounds."""
    return {name.removeprefix(EVAL): s for name, s in run.series.items() if name.startswith(EVAL) and not name.endswith(("/low", "/high"))}


def bound(run: Run, name: str, end: Literal["low", "high"]) -> dict[int, float]:
    """One bound of a metric's 95 % interval, by step; empty where the metric has none."""
    return {point.step: point.value for point in run.series.get(f"{EVAL}{name}/{end}", [])}


def results(run: Run) -> list[Result]:
    """Before and after of every metric, trained ones first and in the recipe's order: from the summary, or from the evaluations so far."""
    names, order = trained(run), run.summary.trained if run.summary else []
    units = run.summary.units if run.summary else {}
    found = {n.removeprefix(EVAL): c for n, c in run.summary.metrics.items()} if run.summary else _so_far(run)
    rows = [Result(name, role(name, names), units.get(name, ""), c.before, c.after) for name, c in found.items()]
    return sorted(rows, key=lambda row: (ROLES.index(row.role), order.index(row.name) if row.name in order else len(order), row.name))


def outcome(rows: list[Result]) -> list[str]:
    """The parts of one sentence, empty before any evaluation: ``jpeg-size 2.41 → 1.52 kB (-37 %)``, ``alignment 0.98x of the base``.

    All that was trained, and of what was not the few that moved most.
    """
    held_out = sorted((row for row in rows if row.role == "held out"), key=_moved, reverse=True)[:MOST_HELD_OUT]
    parts = []
    for row in rows:
        if row.role == "trained":
            unit = f" {row.unit}" if row.unit else ""
            parts.append(f"{short(row.name)} {number(row.before.mean)} → {number(row.after.mean)}{unit} ({row.change})")
        elif row in held_out:
            positive = row.before.mean > 0 and row.after.mean > 0
            told = f"{row.after.mean / row.before.mean:.2f}{TIMES} of the base" if positive else f"{row.change} from the base"
            parts.append(f"{short(row.name)} {told}")
    return parts


def _moved(row: Result) -> float:
    """How far a metric has gone from the base model's, as a ratio up or down; 0 where there is no ratio."""
    before, after = row.before.mean, row.after.mean
    return abs(math.log(after / before)) if before > 0 and after > 0 else 0.0


def _so_far(run: Run) -> dict[str, Change]:
    found = {}
    for name, points in evaluated(run).items():
        low, high = bound(run, name, "low"), bound(run, name, "high")
        first, last = (Interval(p.value, low.get(p.step), high.get(p.step)) for p in (points[0], points[-1]))
        found[name] = Change(before=first, after=last)
    return found
