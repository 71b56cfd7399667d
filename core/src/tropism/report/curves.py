"""Curves: from logged points to the geometry of a small chart, once for each x axis. The template only draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tropism.report.read import Interval, Point
from tropism.report.words import bounds, duration, number, signed

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 350, 10, 162
AXES = ("updates", "samples", "time")
MOST = 300  # points of one line: as many as its pixels can show


@dataclass(frozen=True)
class Line:
    """One curve. ``low`` and ``high`` map steps to interval bounds; ``faint`` is for noisy lines drawn behind others."""

    label: str
    color: str
    points: Sequence[Point]
    low: dict[int, float] = field(default_factory=dict)
    high: dict[int, float] = field(default_factory=dict)
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """A panel of the page: its curves share the axes."""

    name: str
    role: str
    unit: str
    lines: Sequence[Line]

    @property
    def summary(self) -> str:
        """The panel in words, for those who cannot see it."""
        ends = [(line.label, line.points[0], line.points[-1]) for line in self.lines if not line.faint] or [
            (line.label, line.points[0], line.points[-1]) for line in self.lines
        ]
        told = (f"{label} {number(a.value)} at update {a.step}, {number(b.value)} at update {b.step}" for label, a, b in ends)
        return f"{self.name}: {'; '.join(told)}"

    @property
    def tips(self) -> list[str]:
        """The hover text of every point, in the order of ``Plot.spots``."""
        return [
            f"update {p.step:,} · {p.samples:,} samples · {duration(p.seconds)}\n"
            f"{line.label} {number(p.value)} {bounds(Interval(p.value, line.low.get(p.step), line.high.get(p.step)))}".strip()
            for line in map(thin, self.lines)
            for p in line.points
        ]

    @property
    def plots(self) -> list[Plot]:
        """The panel drawn over each of the x axes."""
        return [plot(self, axis) for axis in AXES]


@dataclass(frozen=True)
class Drawn:
    """A curve in the coordinates of the chart: SVG paths, and a marker for each evaluation."""

    color: str
    faint: bool
    path: str
    band: str
    marks: list[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """A chart over one x axis. Ticks are (position, label); ``spots`` are all points, for hovering."""

    axis: str
    label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    drawn: list[Drawn]
    spots: str


def thin(line: Line) -> Line:
    """A line of at most ``MOST`` points: means of equal runs of points, and the label says so."""
    size = math.ceil(len(line.points) / MOST)
    if size <= 1:
        return line
    groups = [line.points[start : start + size] for start in range(0, len(line.points), size)]
    points = [group[-1].model_copy(update={"value": sum(p.value for p in group) / len(group)}) for group in groups]
    return Line(f"{line.label} (mean of {size})", line.color, points, faint=line.faint)


def plot(chart: Chart, axis: str) -> Plot:
    """Lay a chart out over ``axis`` (one of ``AXES``)."""
    lines = [thin(line) for line in chart.lines]
    longest = max((p.seconds for line in lines for p in line.points), default=0.0)
    scale, unit = (3600.0, "hours") if longest >= 7200 else (60.0, "minutes") if longest >= 120 else (1.0, "seconds")

    def at(p: Point) -> float:
        return p.step if axis == "updates" else p.samples if axis == "samples" else p.seconds / scale

    xs = [at(p) for line in lines for p in line.points]
    values = [v for line in lines for v in (*(p.value for p in line.points), *line.low.values(), *line.high.values())]
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = _padded(min(finite), max(finite))
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def x_of(value: float) -> float:
        return round(LEFT + 6 + (value - left) / (right - left) * (RIGHT - LEFT - 12), 1)

    def y_of(value: float) -> float:
        return round(BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP), 1)

    drawn = []
    for line in lines:
        path = [(x_of(at(p)), y_of(p.value)) if math.isfinite(p.value) else None for p in line.points]
        banded = [(x_of(at(p)), line.low[p.step], line.high[p.step]) for p in line.points if p.step in line.low and p.step in line.high]
        banded = [b for b in banded if math.isfinite(b[1]) and math.isfinite(b[2])]
        edge = [f"{x},{y_of(top)}" for x, _, top in banded] + [f"{x},{y_of(foot)}" for x, foot, _ in reversed(banded)]
        marks = [] if line.faint else [spot for spot in path if spot]
        drawn.append(Drawn(line.color, line.faint, _path(path), " ".join(edge), marks))
    return Plot(
        axis=axis,
        label=unit if axis == "time" else axis,
        x_ticks=[(x_of(v), text) for v, text in ticks(left, right, 6, whole=axis != "time")],
        y_ticks=[(y_of(v), text) for v, text in ticks(low, high, 5)],
        drawn=drawn,
        spots=" ".join(f"{x_of(at(p))},{y_of(p.value) if math.isfinite(p.value) else BOTTOM}" for line in lines for p in line.points),
    )


def ticks(low: float, high: float, count: int, whole: bool = False) -> list[tuple[float, str]]:
    """About ``count`` round values in [low, high] with labels that tell them apart; ``whole`` keeps to integers."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.8)
    step = max(step, 1.0) if whole else step
    found = [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    largest = max((abs(value) for value in found), default=0.0)
    if largest >= 10_000 and step >= 100:
        texts = [f"{value / 1000:g}k" for value in found]
    elif largest < 1e-3:
        texts = [f"{value:.0e}".replace("e-0", "e-") if value else "0" for value in found]
    else:
        texts = [f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" for value in found]
    return [(value, signed(text, value)) for value, text in zip(found, texts, strict=True)]


def _padded(low: float, high: float) -> tuple[float, float]:
    """The y range with air above and below, so that no curve runs along the frame and a constant has a middle."""
    air = (high - low) * 0.07
    if air <= 1e-9 * max(abs(low), abs(high)):
        air = abs(low) * 0.1 or 1.0
    return low - air, high + air


def _path(spots: Sequence[tuple[float, float] | None]) -> str:
    """An SVG path that breaks where a value is not finite."""
    parts, pen = [], "M"
    for spot in spots:
        if spot is None:
            pen = "M"
        else:
            parts.append(f"{pen}{spot[0]} {spot[1]}")
            pen = "L"
    return "".join(parts)
