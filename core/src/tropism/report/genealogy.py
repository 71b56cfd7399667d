"""The genealogy of particles as a picture: who goes on from whom, point by point, and how many they are worth.

Time goes to the right. A particle is a dot in its place, as large as its weight and in the colour of its first noise; lines lead to those
that go on from it, and those that lead to a chosen sample are strong; a first noise that begins on the way is a small dot. A search that
makes whole samples again and again has rounds instead of steps. Below, the effective sample size, as a part of the particles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tropism.report.told import Prompt
from tropism.report.words import number

WIDTH, LEFT, TOP, BAR = 360, 16, 10, 34  # px; BAR is the height of the effective size
COLORS = 6  # of the page's runs
MOST = 64  # particles that are drawn, evenly chosen: more would be a smear


@dataclass(frozen=True)
class Link:
    """A line from a particle to one that goes on from it."""

    path: str
    color: int
    strong: bool


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    r: float
    color: int
    strong: bool
    tip: str


@dataclass(frozen=True)
class Picture:
    """In the coordinates of an SVG, ``WIDTH`` wide. ess: points of a line; base: where the bar of effective size ends; ticks: (x, text)."""

    height: float
    links: list[Link]
    dots: list[Dot]
    ess: str
    base: float
    ticks: list[tuple[float, str]]
    summary: str


def picture(prompt: Prompt, steps: int) -> Picture:
    """Lay out the genealogy of one prompt's particles over ``steps`` steps."""
    columns = [0, *(moment.index for moment in prompt.moments)]
    if len(columns) > 2 and columns[1] == steps:  # rounds, side by side
        columns, steps = list(range(len(columns))), len(columns) - 1
    counts = [prompt.first, *(len(moment.ancestors) for moment in prompt.moments)]
    shown = min(max(counts), MOST)
    gap = max(6.0, min(16.0, 160 / shown))
    height = 2 * TOP + gap * (shown - 1)

    def x_of(column: int) -> float:
        return round(LEFT + columns[column] / steps * (WIDTH - 2 * LEFT), 1)

    def y_of(column: int, particle: int) -> float:
        most = max(counts[column] - 1, 1)
        middle = (height - 2 * TOP) / 2
        return round(TOP + (particle / most * (height - 2 * TOP) if counts[column] > 1 else middle), 1)

    roots, alive = _roots(prompt), _alive(prompt)
    links, dots = [], []
    for column in range(1, len(columns)):
        for particle, parent in enumerate(prompt.moments[column - 1].ancestors):
            if counts[column] > MOST and particle % math.ceil(counts[column] / MOST):
                continue
            x, y, root, strong = x_of(column), y_of(column, particle), roots[column][particle], particle in alive[column]
            if parent < 0:
                dots.append(Dot(x, y, 1.5, root % COLORS, strong, f"noise {root}"))
                continue
            x_before, y_before = x_of(column - 1), y_of(column - 1, parent)
            bend = round((x + x_before) / 2, 1)
            links.append(Link(f"M{x_before} {y_before}C{bend} {y_before} {bend} {y} {x} {y}", root % COLORS, strong))
    last = len(columns) - 1
    for particle, weight in enumerate(prompt.weight):
        if len(prompt.weight) > MOST and particle % math.ceil(len(prompt.weight) / MOST):
            continue
        radius = round(1.5 + 3.5 * math.sqrt(max(weight or 0.0, 0.0)), 1)
        tip = f"particle {particle}, from noise {prompt.root[particle]}: reward {number(prompt.reward[particle])}, weight {number(weight)}"
        dots.append(Dot(x_of(last), y_of(last, particle), radius, prompt.root[particle] % COLORS, particle in prompt.chosen, tip))
    base = height + BAR
    ess = [
        f"{x_of(column + 1)},{round(base - BAR * (moment.ess or 0.0) / len(moment.reward), 1)}"
        for column, moment in enumerate(prompt.moments)
    ]
    ticks = [
        (x_of(column), "start" if not column else "end" if columns[column] == steps else str(columns[column])) for column in _apart(columns)
    ]
    living = len(set(prompt.root))
    worth = [moment.ess for moment in prompt.moments if moment.ess is not None]
    summary = f"{prompt.noises} first noises, of which {living} live on" + (
        f"; effective size {number(min(worth))} at least" if worth else ""
    )
    return Picture(base + 16, links, dots, " ".join(ess), base, ticks, summary)


def _roots(prompt: Prompt) -> list[list[int]]:
    """The first noise of every particle of every column."""
    roots, fresh = [list(range(prompt.first))], itertools.count(prompt.first)
    for moment in prompt.moments:
        roots.append([next(fresh) if parent < 0 else roots[-1][parent] for parent in moment.ancestors])
    return roots


def _alive(prompt: Prompt) -> list[set[int]]:
    """The particles of every column that lead to a chosen sample."""
    alive = [set(prompt.chosen)]
    for moment in reversed(prompt.moments):
        alive.append({moment.ancestors[particle] for particle in alive[-1]} - {-1})
    return alive[::-1]


def _apart(columns: Sequence[int]) -> list[int]:
    """Columns whose labels do not touch: at most nine, the ends among them."""
    places = sorted({column: index for index, column in enumerate(columns)}.values())
    stride = max(1, math.ceil(len(places) / 8))
    return sorted({*places[::stride], places[-1]})
