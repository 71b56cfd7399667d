"""The catalog as commands that only look at it want it: a broken plugin is one line on standard error, and the rest is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tropism import plugins


def look(plugin_files: Sequence[Path]) -> plugins.Catalog:
    """Everything installed and in ``plugin_files``; faults are told."""
    _, catalog = plugins.manager(plugin_files) if plugin_files else plugins.installed()
    for fault in catalog.faults:
        click.echo(f"tropism: plugin {fault.plugin} is broken: {fault.reason}", err=True)
    return catalog
