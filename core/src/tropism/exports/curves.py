"""The card's picture: the evaluation curves of trained and held-out metrics, in panels, as one SVG that needs no page around it."""

from __future__ import annotations

from dataclasses import dataclass

from tropism.report.curves import Chart, Line, Plot, plot
from tropism.report.read import Run
from tropism.report.results import bound, evaluated, results

COLORS = {"trained": "#1d7a4a", "held out": "#2a63b8", "diversity": "#8145a5", "distance": "#a8570f"}
WIDE, HIGH, COLUMNS = 360, 226, 3  # a panel with its title, in pixels


@dataclass(frozen=True)
class Panel:
    """A chart over updates, and where it stands."""

    chart: Chart
    plot: Plot
    x: int
    y: int


def charts(run: Run) -> list[Panel]:
    """Panels for every metric that was evaluated at least twice; trained ones first, as in the table."""
    curves = evaluated(run)
    found = list[Panel]()
    for row in results(run):
        points = curves.get(row.name, [])
        if len(points) > 1:
            line = Line("evaluation", COLORS[row.role], points, bound(run, row.name, "low"), bound(run, row.name, "high"))
            chart = Chart(row.name, row.role, row.unit, [line])
            place = len(found)
            found.append(Panel(chart, plot(chart, "updates"), place % COLUMNS * WIDE, place // COLUMNS * HIGH))
    return found
