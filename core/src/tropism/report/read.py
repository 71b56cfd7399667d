"""A run folder as data.

A file that is not there yet is a known state (a run that is going on has no ``summary.json``) and reads as empty or None.
A file that is there but broken is an error that names the file and the line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from tropism.errors import TropismError

T = TypeVar("T")


class Point(BaseModel):
    """One logged value: after ``step`` updates, ``samples`` generated samples and ``seconds`` of wall clock."""

    step: int
    samples: int
    seconds: float
    value: float


class Logged(Point):
    """One line of ``metrics.jsonl``."""

    name: str


class Interval(NamedTuple):
    """A mean with its 95 % interval; the bounds are None where a metric has none (a distance between two sets)."""

    mean: float
    low: float | None = None
    high: float | None = None


class Change(BaseModel):
    """A metric of the base model and of the aligned one."""

    before: Interval
    after: Interval


class Alarm(BaseModel):
    """Something a person should look at, raised at update ``step``."""

    step: int
    text: str


class Summary(BaseModel):
    """``summary.json``. ``phases`` are seconds; ``units`` maps a metric to the unit it is printed with, such as kB."""

    recipe: str
    seed: int
    seconds: float
    phases: dict[str, float]
    samples: int
    status: str
    trained: list[str]
    alarms: list[Alarm]
    metrics: dict[str, Change]
    units: dict[str, str] = {}
    kept_step: int | None = None  # the iteration whose weights the run has: an earlier one than its last where the guard went back


class Tile(BaseModel):
    """One generated sample: its media file (a name beside ``index.json``) and its raw scores."""

    prompt: str
    seed: int
    file: str
    scores: dict[str, float]


class Evaluation(BaseModel):
    """``samples/step-*/index.json``: the same prompts and seeds at every step; step 0 is the base model."""

    step: int
    samples: int
    kind: str
    tiles: list[Tile]
    model: str = ""  # what the page calls it, where the step does not say which model it is of


@dataclass(frozen=True)
class Run:
    """All of a run folder that the report shows. ``series`` and ``evaluations`` are ordered by step."""

    folder: Path
    recipe: str
    environment: dict[str, str]
    series: dict[str, list[Point]]
    summary: Summary | None
    evaluations: list[tuple[Path, Evaluation]]

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's while there is no summary."""
        return self.summary.recipe if self.summary else self.folder.resolve().name


def read(folder: Path) -> Run:
    """Read a run folder. Raises TropismError for a folder that is no run, and for a broken file."""
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file() and not (folder / "summary.json").is_file():
        found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else "no such folder"
        raise TropismError(
            f"{folder} is not a run folder\n  found: {found}; expected: metrics.jsonl, as 'tropism run' writes it\n"
            "  give the folder that 'tropism run' printed"
        )
    return Run(
        folder=folder,
        recipe=_text(folder / "recipe.yaml") or _text(folder / "evaluated.yaml") or "",
        environment=_json(folder / "env.json", TypeAdapter(dict[str, str])) or {},
        series=_series(metrics),
        summary=_json(folder / "summary.json", TypeAdapter(Summary)),
        evaluations=[evaluation(path) for path in sorted(folder.glob("samples/step-*/index.json"))],
    )


def _series(path: Path) -> dict[str, list[Point]]:
    """Every metric by name. A step logged twice (a run resumed from an older checkpoint) keeps its last value."""
    lines = (_text(path) or "").split("\n")
    lines.pop()  # empty after the last newline, or a line that the run is still writing
    adapter = TypeAdapter(Logged)
    found: dict[str, dict[int, Point]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            logged = _parse(line, adapter, f"{path}:{number}")
            found.setdefault(logged.name, {})[logged.step] = logged
    return {name: [points[step] for step in sorted(points)] for name, points in found.items()}


def evaluation(path: Path) -> tuple[Path, Evaluation]:
    """The samples of an ``index.json``, with the folder that they are in. Raises TropismError for one that is broken or missing."""
    found = _parse(_text(path) or "", TypeAdapter(Evaluation), str(path))
    for tile in found.tiles:
        # Only what lies beside the index is embedded: a run folder from elsewhere must not pull other files into the page.
        if Path(tile.file).name != tile.file or not (path.parent / tile.file).is_file():
            raise TropismError(f"{path}: names the media file {tile.file!r}; expected the name of a file beside it")
    return path.parent, found


def _json(path: Path, adapter: TypeAdapter[T]) -> T | None:
    text = _text(path)
    return None if text is None else _parse(text, adapter, str(path))


def _text(path: Path) -> str | None:
    """The text of a file, or None where there is none."""
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TropismError(f"{path} cannot be read: {error}") from error


def _parse(text: str, adapter: TypeAdapter[T], where: str) -> T:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        faults = "\n".join(f"  {'.'.join(map(str, fault['loc'])) or 'json'}: {fault['msg']}" for fault in error.errors())
        raise TropismError(f"{where}: not what tropism writes\n{faults}") from error
