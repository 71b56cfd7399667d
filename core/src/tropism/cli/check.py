"""``tropism check``: whether a recipe can run, before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli import options
from tropism.cli.table import echo_table


@click.command(
    "check",
    epilog="\b\nExamples:\n  tropism check my.yaml\n  tropism check toy/ddpo rollout.samples=256 rollout.batch=256\n"
    "  tropism check my.yaml --plugin my_reward.py",
)
@click.argument("recipe")
@options.overrides
@options.plugin_files
def command(recipe: str, overrides: tuple[str, ...], plugin_files: tuple[Path, ...]) -> None:
    """Say whether a recipe can run.

    Shows every mistake of RECIPE (a file or a registered name) with its line, or the numbers that follow from it. Loads no weights.
    """
    from tropism import api

    _, catalog = api.loaded(plugin_files)
    made, text, where = api.load_recipe(recipe, catalog, overrides)
    from tropism import assemble  # imports torch; mistakes in the file itself are told without that wait

    assemble.check(made, catalog, text, where)
    echo_table([(name, f"{value:,}") for name, value in made.arithmetic().items()])
    click.echo(f"{where}: ok")
