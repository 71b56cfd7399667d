"""``tropism report``: the page of a run."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli import options
from tropism.cli.catalog import look


@click.command("report", epilog="\b\nExamples:\n  tropism report runs/toy-ddpo-seed0\n  tropism report runs/toy-ddpo-seed0 --open")
@options.run_folder
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
def command(run: Path, show: bool) -> None:
    """Write a run's page anew.

    Prints the path of RUN's report.html. A run that is still going on gets a page of what there is so far.
    """
    from tropism import plugins, report, runfolder

    _, files = runfolder.open_run(run)
    page = report.build(run, plugins.views(look(files)))
    click.echo(page)
    if show:
        click.launch(page.resolve().as_uri())
