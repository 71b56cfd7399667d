"""What a run has achieved, on the terminal: the numbers of its report in one table, and where everything lies."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click

from tropism.cli.table import echo_table
from tropism.report.read import Interval, read
from tropism.report.results import Result, results
from tropism.report.words import number


def estimate(interval: Interval) -> str:
    """``1.52 [1.48, 1.57]``, or the mean alone where there is no interval."""
    if interval.low is None or interval.high is None:
        return number(interval.mean)
    return f"{number(interval.mean)} [{number(interval.low)}, {number(interval.high)}]"


def cells(row: Result) -> tuple[str, str, str, str]:
    """Metric, before, after, change."""
    return f"{row.name} ({row.unit})" if row.unit else row.name, estimate(row.before), estimate(row.after), row.change


def echo_results(rows: Iterable[Result]) -> None:
    echo_table([cells(row) for row in rows], ("metric", "before", "after", "change"))


def finish(folder: Path, status: str) -> None:
    """Print how a run ended. Exit status 130 for one that was interrupted. Of several processes only the main one has anything to say."""
    if os.environ.get("RANK", "0") != "0":
        return
    run = read(folder)
    click.echo()
    echo_results(results(run))
    for alarm in run.summary.alarms if run.summary else []:
        click.echo(f"alarm at iteration {alarm.step}: {alarm.text}")
    kept = f"; the weights are those of iteration {run.summary.kept_step}" if run.summary and status == "guarded" else ""
    click.echo(f"\n{status}{kept}\nrun     {folder}\nreport  {folder / 'report.html'}")
    if status == "interrupted":
        click.echo(f"go on with: tropism resume {folder}")
        click.get_current_context().exit(130)
