"""The page of steered samples: every method in one table, what it chose side by side, and the genealogy of its particles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tropism.errors import TropismError
from tropism.report import words
from tropism.report.genealogy import Picture, picture
from tropism.report.page import digests, drawing, seen
from tropism.report.read import Evaluation, Interval, evaluation
from tropism.report.samples import Column, Heading, Samples, Shown, View
from tropism.report.told import Outcome, Told, read

FIRST = ("best reward", "mean reward")
LAST = ("distinct roots", "log Z")
DRAWN = 12  # prompts whose genealogies are on the page


@dataclass(frozen=True)
class Family:
    """A genealogy with whose it is."""

    method: str
    picture: Picture
    facts: str


def build(folder: Path, views: Mapping[str, View] | None = None) -> Path:
    """Write ``report.html`` into a folder that ``tropism steer`` has filled. Raises TropismError for another folder or a broken file."""
    told, views = read(folder), seen(views)
    evaluations = {one.label: evaluation(folder / "samples" / one.label / "index.json") for one in told.outcomes}
    table = _samples(told, evaluations, views)
    jinja, css, js = drawing()
    scripts = [js, *table.scripts]
    page = jinja.get_template("steering.html.j2").render(
        told=told,
        metrics=_metrics(told),
        samples=table,
        families=_families(told),
        left_out=max(0, len(told.outcomes[0].prompts) - DRAWN),
        recipe=_text(folder / "steered.yaml"),
        css=css,
        scripts=scripts,
        digests=digests(scripts),
    )
    out = folder / "report.html"
    out.write_text(page, encoding="utf-8")
    return out


def _metrics(told: Told) -> list[tuple[str, str, list[Interval | None]]]:
    """(name, role, its value by method): what was steered for, then what was only watched, then the particles themselves."""
    names = list(dict.fromkeys(name for one in told.outcomes for name in one.metrics))
    scores = [name for name in names if name not in (*FIRST, *LAST)]
    followed = [name for name in scores if name in told.trained]
    watched = [name for name in scores if name not in told.trained]
    roles = [*((n, "steered for") for n in (*FIRST, *followed)), *((n, "held-out") for n in watched), *((n, "particles") for n in LAST)]
    return [(name, role, [one.metrics.get(name) for one in told.outcomes]) for name, role in roles if name in names]


def _samples(told: Told, evaluations: Mapping[str, tuple[Path, Evaluation]], views: Mapping[str, View]) -> Samples:
    """A column a method; of each prompt what it chose, numbered, since other methods choose from other noise."""
    names = {name for _, found in evaluations.values() for tile in found.tiles for name in tile.scores}
    scores = sorted(names, key=lambda name: (name not in told.trained, name))
    columns, seeds, kinds = [], dict[str, list[int]](), dict[str, None]()
    for number, one in enumerate(told.outcomes):
        folder, found = evaluations[one.label]
        if found.kind not in views:
            raise TropismError(f"{folder}: no installed plugin shows samples of kind {found.kind!r}; install the one that made them")
        kinds[found.kind] = None
        cells = dict[tuple[str, int], list[Shown]]()
        tiles, means = iter(found.tiles), [_mean(found, name) for name in scores]
        for place, prompt in enumerate(one.prompts):
            row = f"{place + 1}. {prompt.prompt}"  # a prompt may be given twice
            for index, tile in zip(range(len(prompt.chosen)), tiles, strict=False):
                told_scores = [words.number(tile.scores.get(name)) for name in scores]
                cells[row, index] = [Shown(tile, 0, one.label, views[found.kind].html(folder / tile.file), told_scores)]
                if index not in seeds.setdefault(row, []):
                    seeds[row].append(index)
        columns.append(Column(f"run-{number}", [Heading(0, one.label, one.label, [words.number(mean) for mean in means])], cells))
    scripts = [script for kind in kinds if (script := getattr(views[kind], "script", ""))]
    return Samples(columns, seeds, scores, [], scripts)


def _families(told: Told) -> list[tuple[str, list[Family]]]:
    """By prompt, the genealogies of the methods that have more than one particle."""
    found = []
    for place, prompt in enumerate(told.outcomes[0].prompts[:DRAWN]):
        drawn = [
            Family(one.label, picture(one.prompts[place], told.steps), _facts(one, place)) for one in told.outcomes if one.particles > 1
        ]
        found.append((prompt.prompt, drawn))
    return found


def _facts(one: Outcome, place: int) -> str:
    prompt = one.prompts[place]
    parts = [f"{len(set(prompt.root))} of {prompt.noises} noises live on"]
    if prompt.lam is not None:
        parts.append(f"lambda {words.number(prompt.lam)}")
    if prompt.log_z is not None:
        parts.append(f"log Z {words.number(prompt.log_z)}")
    return " · ".join([*parts, f"resampled {sum(moment.resampled for moment in prompt.moments)} times"])


def _mean(found: Evaluation, name: str) -> float | None:
    values = [tile.scores[name] for tile in found.tiles if name in tile.scores]
    return sum(values) / len(values) if values else None


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
