"""``tropism resume``: go on with a run."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli import options


@click.command(
    "resume",
    epilog="\b\nExamples:\n  tropism resume runs/toy-ddpo-seed0\n  tropism resume runs/toy-ddpo-seed0 --iterations 100\n"
    "  tropism resume runs/toy-ddpo-seed0 --nproc 4",
)
@options.run_folder
@click.option("--iterations", metavar="N", type=click.IntRange(1, 10_000_000), help="A new end, counted from the run's beginning.")
@options.processes
def command(run: Path, iterations: int | None, nproc: int) -> None:
    """Go on with a run that was stopped.

    RUN goes on from its newest checkpoint, exactly as if it had never stopped; with --iterations also one that was finished.
    """
    from tropism import api
    from tropism.cli.outcome import finish
    from tropism.cli.together import together

    if nproc > 1:
        api.reopen(run, iterations, nproc)
        together(run, nproc)
        return
    finish(run, api.resume(run, iterations))
