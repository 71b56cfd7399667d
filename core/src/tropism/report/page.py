"""The page itself: runs in, one self-contained HTML file out."""

from __future__ import annotations

import base64
import difflib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tropism.errors import TropismError
from tropism.report import samples, words
from tropism.report.curves import AXES, Chart, Line
from tropism.report.read import Interval, Run, read
from tropism.report.results import EVAL, REWARD, ROLES, TIME, Result, bound, evaluated, outcome, results, role, trained
from tropism.report.samples import View


@dataclass(frozen=True)
class Told:
    """One run as the page tells it; ``color`` is its CSS colour where runs are compared."""

    run: Run
    name: str
    color: str
    result: list[str]
    status: str
    facts: list[str]
    phases: list[tuple[str, float, float]]


def build(run: Path, views: Mapping[str, View] | None = None) -> Path:
    """Write ``report.html`` into a run folder and return its path.

    ``views`` maps a kind of sample to what shows it (default: those of all installed plugins). A run that is still going on
    gets a page of what there is so far. Raises TropismError for a folder that is no run, or a broken file in it.
    """
    found = read(run)
    told = _tell(found, found.name, "var(--accent)")
    table = samples.of_run(found, seen(views), trained(found))
    return _write(run / "report.html", [told], table, found.name)


def compare(runs: Sequence[Path], out: Path, views: Mapping[str, View] | None = None) -> Path:
    """Write one page for two or more runs to ``out``: curves overlaid, last samples side by side. Raises TropismError as ``build``."""
    if len(runs) < 2:
        raise TropismError(f"compare was given {len(runs)} run(s); expected two or more\n  'tropism report RUN' shows a single one")
    found = [read(run) for run in runs]
    names = [run.name for run in found]
    if len(set(names)) < len(names):
        names = [run.folder.resolve().name for run in found]
    told = [_tell(run, name, f"var(--run-{i % 6})") for i, (run, name) in enumerate(zip(found, names, strict=True))]
    table = samples.of_runs(found, names, seen(views), set().union(*(trained(run) for run in found)))
    return _write(out, told, table, " · ".join(names))


def seen(views: Mapping[str, View] | None) -> Mapping[str, View]:
    """The views given, or those of all installed plugins."""
    if views is not None:
        return views
    from tropism import plugins  # the page needs no plugin when its views are given

    return plugins.views()


def drawing() -> tuple[Environment, str, str]:
    """What pages are written with: templates, their style and their script."""
    loader = PackageLoader("tropism", "templates")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"number": words.number, "bounds": words.bounds, "duration": words.duration, "short": words.short}
    css, js = (loader.get_source(jinja, f"report.{kind}")[0] for kind in ("css", "js"))
    return jinja, css, js


def digests(scripts: Sequence[str]) -> list[str]:
    """The page may run these scripts and load nothing: whatever a prompt or a fragment holds, the browser enforces it."""
    return [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]


def _write(out: Path, told: Sequence[Told], table: samples.Samples | None, title: str) -> Path:
    jinja, css, js = drawing()
    scripts = [js, *(table.scripts if table else [])]
    page = jinja.get_template("report.html.j2").render(
        title=title,
        runs=told,
        rows=_rows(told),
        charts=_charts(told),
        diagnostics=_diagnostics(told),
        axes=AXES,
        samples=table,
        diffs=_diffs(told),
        css=css,
        scripts=scripts,
        digests=digests(scripts),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _tell(run: Run, name: str, color: str) -> Told:
    summary = run.summary
    last = max((p for s in run.series.values() for p in s), key=lambda p: p.seconds, default=None)
    seconds = summary.seconds if summary else last.seconds if last else 0.0
    generated = summary.samples if summary else last.samples if last else 0
    facts = [f"seed {summary.seed}"] if summary else []
    facts += [words.duration(seconds), f"{generated:,} samples", *filter(None, [run.environment.get("device")])]
    if summary and summary.status == "guarded":
        facts.append(f"the weights are those of iteration {summary.kept_step}")
    timed = {name.removeprefix(TIME): sum(p.value for p in points) for name, points in run.series.items() if name.startswith(TIME)}
    phases = summary.phases if summary else timed
    spent = {phase: value for phase, value in phases.items() if value > 0}
    rest = seconds - sum(spent.values())
    if spent and rest > 0.005 * seconds:
        spent["other"] = rest
    total = sum(spent.values())
    status = summary.status if summary else "no summary yet"
    return Told(run, name, color, outcome(results(run)), status, facts, [(n, s, 100 * s / total) for n, s in spent.items()])


def _rows(told: Sequence[Told]) -> list[list[tuple[Told, Result, list[tuple[float, float, float]]]]]:
    """The before/after table: for each metric one row a run, with both intervals as (low, mean, high) percent of their common range."""
    groups: dict[tuple[int, str], list[tuple[Told, Result]]] = {}
    for one in told:
        for row in results(one.run):
            groups.setdefault((ROLES.index(row.role), row.name), []).append((one, row))
    return [_whiskers(groups[key]) for key in sorted(groups)]


def _whiskers(group: list[tuple[Told, Result]]) -> list[tuple[Told, Result, list[tuple[float, float, float]]]]:
    def ends(interval: Interval) -> tuple[float, float, float]:
        low, high = (interval.mean if end is None else end for end in (interval.low, interval.high))
        return low, interval.mean, high

    pairs = [(ends(row.before), ends(row.after)) for _, row in group]
    every = [value for pair in pairs for three in pair for value in three]
    if not all(map(math.isfinite, every)) or max(every) == min(every):
        return [(one, row, []) for one, row in group]
    low, span = min(every), max(every) - min(every)
    scaled = [[(100 * (a - low) / span, 100 * (m - low) / span, 100 * (b - low) / span) for a, m, b in pair] for pair in pairs]
    return [(one, row, whisker) for (one, row), whisker in zip(group, scaled, strict=True)]


def _charts(told: Sequence[Told]) -> list[Chart]:
    """One panel a metric: evaluations of every run, and behind a trained one the mean reward of each rollout."""
    parts = {name: role(name, trained(one.run)) for one in told for name in evaluated(one.run)}
    charts = []
    for name in sorted(parts, key=lambda name: (ROLES.index(parts[name]), name)):
        lines = []
        for one in told:
            color = one.color if len(told) > 1 else f"var(--{parts[name].replace(' ', '-')})"
            tag = f"{one.name}, " if len(told) > 1 else ""
            if noisy := one.run.series.get(REWARD + name):
                lines.append(Line(f"{tag}rollouts", color, noisy, faint=True))
            if points := evaluated(one.run).get(name):
                lines.append(Line(f"{tag}evaluation", color, points, bound(one.run, name, "low"), bound(one.run, name, "high")))
        units = [one.run.summary.units.get(name, "") for one in told if one.run.summary]
        charts.append(Chart(name, parts[name], next(iter(units), ""), lines))
    return charts


def _diagnostics(told: Sequence[Told]) -> list[Chart]:
    """Every other curve: what the optimizer logs, and rewards that were logged but never evaluated."""
    shown = {REWARD + name for one in told for name in evaluated(one.run)}
    names = {n for one in told for n in one.run.series if not n.startswith((EVAL, TIME)) and n not in shown}
    charts = []
    for name in sorted(names):
        logged = [(one, one.run.series[name]) for one in told if name in one.run.series]
        lines = [Line(one.name if len(told) > 1 else words.short(name), one.color, points, faint=True) for one, points in logged]
        charts.append(Chart(name, "", "", lines))
    return charts


def _diffs(told: Sequence[Told]) -> list[tuple[str, str]]:
    """How the recipe of each later run differs from the first run's, as (run, unified diff)."""
    first, *others = told
    base = first.run.recipe.splitlines()
    return [
        (one.name, "\n".join(difflib.unified_diff(base, one.run.recipe.splitlines(), first.name, one.name, lineterm="", n=1)))
        for one in others
    ]
