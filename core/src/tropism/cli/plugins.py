"""``tropism plugins``: who gives what, and who is broken."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from tropism.cli import options
from tropism.cli.catalog import look
from tropism.cli.table import echo_table
from tropism.entry import KINDS
from tropism.plugins import Catalog


def given(catalog: Catalog, plugin: str) -> str:
    """What a plugin has registered, counted: ``3 rewards, 1 recipes``."""
    counts = Counter(kind for (kind, _), origin in catalog.origin.items() if origin == plugin)
    return ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]) or "hooks only"


@click.command("plugins", epilog="\b\nExamples:\n  tropism plugins\n  tropism plugins --plugin my_reward.py")
@options.plugin_files
def command(plugin_files: tuple[Path, ...]) -> None:
    """List plugins and what each gives.

    A broken one is one line on standard error.
    """
    catalog = look(plugin_files)
    rows = [(name, label or "built in", given(catalog, name)) for name, label in catalog.distributions.items()]
    echo_table(rows, ("plugin", "from", "gives"))
