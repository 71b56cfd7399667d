"""``tropism pairs``: a data set of pairs, from a model's own samples and a recipe's rewards."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli import options


@click.command(
    "pairs",
    epilog="\b\nExamples:\n  tropism pairs image/dpo-compress pairs --count 512\n"
    "  tropism pairs my.yaml pairs credit='{use: best-worst, scale: 0.2}'",
)
@click.argument("recipe")
@click.argument("folder", type=click.Path(path_type=Path))
@options.overrides
@click.option("--count", type=click.IntRange(1), default=256, show_default=True, help="Pairs.")
@options.plugin_files
def command(recipe: str, folder: Path, overrides: tuple[str, ...], count: int, plugin_files: tuple[Path, ...]) -> None:
    """Write pairs of a model's own samples.

    The base model of RECIPE samples siblings, its rewards score them and its judge (credit) compares them. FOLDER gets the media and
    feedback.jsonl, which an offline recipe reads: offline: {use: folder, path: FOLDER}.
    """
    from tropism import api

    ties = api.pairs(recipe, folder, count, overrides, plugin_files)
    click.echo(f"{count} pairs in {folder}, {ties} ties left out")
