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

    Prints the path of RUN's report.html. A run that is still going on gets a page of what there is so far. RUN may also be a folder that
    'tropism steer' wrote.
    """
    from tropism import plugins, report, runfolder

    if (run / "steered.yaml").is_file():
        page = report.steered(run, plugins.views(look(())))
    else:
        page = report.build(run, plugins.views(look(runfolder.open_run(run)[1])))
    click.echo(page)
    if show:
        click.launch(page.resolve().as_uri())
