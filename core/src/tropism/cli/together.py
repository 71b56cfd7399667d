"""A run in several processes: how ``--nproc`` starts it, and what is said where one of them fails."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tropism.errors import ProcessError
from tropism.scale.launch import launch


def together(folder: Path, count: int) -> None:
    """Go on with the run in ``folder`` in ``count`` processes; exit with their status."""
    if "WORLD_SIZE" in os.environ and os.environ["WORLD_SIZE"] != "1":
        raise ProcessError("--nproc starts processes, but this is already one of several (WORLD_SIZE is set); leave one of the two out")
    status, said = launch(["resume", str(folder)], count)
    if said:
        click.echo(f"tropism: {said}\n  go on with: tropism resume {folder} --nproc {count}", err=True)
    click.get_current_context().exit(status)
