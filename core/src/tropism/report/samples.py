"""The samples as a table: prompts are rows, columns are models, and a cell holds one seed at one or several steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tropism.errors import TropismError, nearest
from tropism.report.read import Evaluation, Run, Tile
from tropism.report.words import number


class View(Protocol):
    """What the report needs of a modality: a media file as a self-contained HTML fragment, with all data escaped.

    A view may also have ``script``, JavaScript of its own that makes its fragments live; the page holds it once and runs no other.
    """

    def html(self, file: Path) -> str: ...


@dataclass(frozen=True)
class Shown:
    """A tile, ready for the page. ``scores`` are formatted, in the order of ``Samples.scores``."""

    tile: Tile
    at: int
    label: str
    html: str
    scores: list[str]


@dataclass(frozen=True)
class Heading:
    """The title of a column at one step, with the mean of each score over its tiles."""

    at: int
    label: str
    note: str
    scores: list[str]


@dataclass(frozen=True)
class Column:
    """A model at one or several steps; ``cells`` maps (prompt, seed) to its tile at each of the steps."""

    key: str
    headings: list[Heading]
    cells: dict[tuple[str, int], list[Shown]]


@dataclass(frozen=True)
class Samples:
    """The whole table. ``seeds`` gives each prompt's seeds; ``steps`` are the labels of the slider, if there is one; ``scripts`` are the
    views' own."""

    columns: list[Column]
    seeds: dict[str, list[int]]
    scores: list[str]
    steps: list[str]
    scripts: list[str]


def of_run(run: Run, views: Mapping[str, View], first: set[str]) -> Samples | None:
    """The base model beside every later evaluation of one run; None before the first evaluation."""
    if not run.evaluations:
        return None
    scores = _scores([evaluation for _, evaluation in run.evaluations], first)
    labels = [_label(evaluation) for _, evaluation in run.evaluations]
    columns = [_column("base", [(0, labels[0], run.evaluations[0])], views, scores)]
    if len(labels) > 1:
        later = [(at, labels[at], run.evaluations[at]) for at in range(1, len(labels))]
        columns.append(_column("chosen", later, views, scores))
    return Samples(columns, _seeds(columns), scores, labels if len(labels) > 1 else [], _scripts([run], views))


def of_runs(runs: Sequence[Run], names: Sequence[str], views: Mapping[str, View], first: set[str]) -> Samples | None:
    """The last evaluation of each run side by side, after the base model where it is one and the same for all."""
    last = [(name, run.evaluations[-1]) for name, run in zip(names, runs, strict=True) if run.evaluations]
    if not last:
        return None
    scores = _scores([evaluation for _, (_, evaluation) in last], first)
    columns = [_column(f"run-{i}", [(0, name, found)], views, scores) for i, (name, found) in enumerate(last)]
    bases = [_column("base", [(0, "base model", r.evaluations[0])], views, scores) for r in runs if len(r.evaluations) > 1]
    if len(bases) == len(runs) and all(_pictures(base) == _pictures(bases[0]) for base in bases):
        columns.insert(0, bases[0])
    return Samples(columns, _seeds(columns), scores, [], _scripts(runs, views))


def _column(key: str, steps: Sequence[tuple[int, str, tuple[Path, Evaluation]]], views: Mapping[str, View], scores: list[str]) -> Column:
    headings, cells = [], dict[tuple[str, int], list[Shown]]()
    for at, label, (folder, evaluation) in steps:
        view = _view(evaluation.kind, views, folder)
        means = [_mean([tile.scores[name] for tile in evaluation.tiles if name in tile.scores]) for name in scores]
        headings.append(Heading(at, label, _label(evaluation), [number(mean) for mean in means]))
        for tile in evaluation.tiles:
            told = [number(tile.scores.get(name)) for name in scores]
            shown = Shown(tile, at, label, view.html(folder / tile.file), told)
            cells.setdefault((tile.prompt, tile.seed), []).append(shown)
    return Column(key, headings, cells)


def _pictures(column: Column) -> dict[tuple[str, int], list[str]]:
    return {key: [shown.html for shown in stack] for key, stack in column.cells.items()}


def _scripts(runs: Sequence[Run], views: Mapping[str, View]) -> list[str]:
    kinds = dict.fromkeys(evaluation.kind for run in runs for _, evaluation in run.evaluations)
    return [script for kind in kinds if (script := getattr(views[kind], "script", ""))]


def _view(kind: str, views: Mapping[str, View], folder: Path) -> View:
    if kind not in views:
        raise TropismError(
            f"{folder / 'index.json'}: no installed plugin shows samples of kind {kind!r}{nearest(kind, views)}\n"
            f"  kinds that can be shown: {', '.join(sorted(views)) or 'none'}\n"
            "  install the plugin that made the run, then build the report again"
        )
    return views[kind]


def _label(evaluation: Evaluation) -> str:
    return evaluation.model or (f"update {evaluation.step:,}" if evaluation.step else "base model")


def _seeds(columns: Sequence[Column]) -> dict[str, list[int]]:
    """Each prompt's seeds, in the order in which they were first generated."""
    seeds: dict[str, list[int]] = {}
    for prompt, seed in dict.fromkeys(key for column in columns for key in column.cells):
        seeds.setdefault(prompt, []).append(seed)
    return seeds


def _scores(evaluations: Sequence[Evaluation], first: set[str]) -> list[str]:
    """All score names, the trained ones first."""
    names = {name for evaluation in evaluations for tile in evaluation.tiles for name in tile.scores}
    return sorted(names, key=lambda name: (name not in first, name))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
