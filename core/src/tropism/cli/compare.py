"""``tropism compare``: several runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli.catalog import look
from tropism.cli.table import echo_table


@click.command(
    "compare",
    epilog="\b\nExamples:\n  tropism compare runs/toy-ddpo-seed0 runs/toy-ddpo-seed1\n  tropism compare runs/a runs/b --out ab.html",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...", type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), default=Path("compare.html"), show_default=True)
def command(runs: tuple[Path, ...], out: Path) -> None:
    """Write one page for several runs.

    Prints also what each RUN has reached.
    """
    from tropism import plugins, report, runfolder
    from tropism.cli.outcome import cells
    from tropism.report.read import read
    from tropism.report.results import results

    files = {file: None for run in runs for file in runfolder.open_run(run)[1]}  # the runs' plugins, each once
    page = report.compare(runs, out, plugins.views(look(tuple(files))))
    found = [(row.name, str(run), *cells(row)[1:]) for run in runs for row in results(read(run))]
    first = {name: index for index, (name, *_) in reversed(list(enumerate(found)))}
    rows = sorted(found, key=lambda row: first[row[0]])  # stable: metrics as in the first run, under each the runs as given
    echo_table(rows, ("metric", "run", "before", "after", "change"))
    click.echo(f"\n{page}")
