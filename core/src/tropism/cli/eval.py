"""``tropism eval``: measure a run's newest weights again."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli import options


@click.command("eval", epilog="\b\nExamples:\n  tropism eval runs/toy-ddpo-seed0\n  tropism eval runs/toy-ddpo-seed0 --out again")
@options.run_folder
@click.option(
    "--fresh",
    type=click.IntRange(0, 100_000),
    default=0,
    metavar="N",
    help="On N held-out prompts that the run's own evaluations, and so its guard, have not seen.",
)
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="A new or empty folder for the samples and their page.")
def command(run: Path, fresh: int, out: Path | None) -> None:
    """Evaluate a run's newest weights again.

    RUN's base model and its weights at the newest checkpoint, by the recipe's own evaluation. Writes nothing, unless
    --out names a folder: then the samples of both, side by side on a page with the numbers.
    """
    from tropism import api
    from tropism.cli.outcome import echo_results
    from tropism.report.read import Interval
    from tropism.report.results import Result, role

    job = api.trained(run)
    trained = {part.use for part in job.recipe.rewards}
    before, after = api.evaluate(job, fresh, out)
    pairs = {name: (Interval(*before[name].as_list()), Interval(*found.as_list())) for name, found in after.items()}
    echo_results(Result(name, role(name, trained), "", *pair) for name, pair in pairs.items())
    if out is not None:
        click.echo(f"\nreport  {out / 'report.html'}")
