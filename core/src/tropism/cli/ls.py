"""``tropism ls``: what there is. Imports no torch, so that it answers at once."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tropism.cli import options
from tropism.cli.catalog import look
from tropism.cli.table import echo_table
from tropism.entry import KINDS


@click.command("ls", epilog="\b\nExamples:\n  tropism ls\n  tropism ls rewards --plugin my_reward.py\n  tropism ls recipes --json")
@click.argument("kind", required=False, type=click.Choice(KINDS), metavar="[KIND]")
@click.option("--json", "as_json", is_flag=True, help="A JSON list, for a program to read.")
@options.plugin_files
def command(kind: str | None, as_json: bool, plugin_files: tuple[Path, ...]) -> None:
    """List all that a recipe may name.

    Recipes, rewards, optimizers and the rest, each with its kind and a line that says what it is.
    """
    catalog = look(plugin_files)
    found = [(k, entry) for k in KINDS if kind in (None, k) for entry in catalog.entries[k].values()]
    if as_json:
        rows = [{"kind": k, "name": e.name, "summary": e.summary, "plugin": catalog.origin[k, e.name], "extra": e.extra} for k, e in found]
        click.echo(json.dumps(rows, indent=1))
    else:
        echo_table([(k, entry.name, entry.summary) for k, entry in found])
