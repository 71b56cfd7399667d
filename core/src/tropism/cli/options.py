"""What several commands take."""

from __future__ import annotations

from pathlib import Path

import click

plugin_files = click.option(
    "--plugin",
    "plugin_files",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A Python file with plugin hooks; may be repeated.",
)
overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
processes = click.option(
    "--nproc", metavar="N", type=click.IntRange(1, 1024), default=1, show_default=True, help="Processes, each with a GPU of its own."
)
run_folder = click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
