"""``tropism show``: one thing in full."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from tropism.cli import options
from tropism.cli.catalog import look
from tropism.entry import KINDS, Entry
from tropism.errors import PluginError, nearest
from tropism.plugins import Catalog


@click.command(
    "show", epilog="\b\nExamples:\n  tropism show policy-gradient\n  tropism show toy/ddpo\n  tropism show my/reward --plugin my_reward.py"
)
@click.argument("name")
@options.plugin_files
def command(name: str, plugin_files: tuple[Path, ...]) -> None:
    """Show one thing in full.

    What NAME is, where it comes from and which arguments it takes; of a recipe, its text.
    """
    catalog = look(plugin_files)
    kinds = [kind for kind in KINDS if name in catalog.entries[kind]]
    if not kinds:
        names = {known for kind in KINDS for known in catalog.entries[kind]}
        raise PluginError(f"there is no '{name}'{nearest(name, names)}; 'tropism ls' lists all {len(names)} names")
    for index, kind in enumerate(kinds):
        _show(catalog, kind, catalog.entries[kind][name], first=index == 0)


def _show(catalog: Catalog, kind: str, entry: Entry, first: bool) -> None:
    plugin = catalog.origin[kind, entry.name]
    click.echo(("" if first else "\n") + click.style(entry.name, bold=True))
    click.echo(entry.summary)
    click.echo(f"kind: {kind}\nfrom: {catalog.distributions[plugin] or plugin}, {entry.target}")
    if entry.extra:
        click.echo(f"needs: pip install '{entry.extra}'")
    if kind == "recipes":
        from tropism.api import recipe_text

        click.echo(f"\n{recipe_text(entry.name, catalog)}", nl=False)
        return
    from tropism.assemble import describe
    from tropism.rewards.base import needs

    target = entry.load()
    if kind == "rewards":
        asked = needs(target.__call__) if isinstance(target, type) else needs(target)
        click.echo(f"scores from: {', '.join(name for name in asked if name != 'self')}")
    # The parameters of a plain function that is a reward are what it scores, not what a recipe may give it.
    arguments = describe(entry).splitlines() if isinstance(target, type) or kind != "rewards" else []
    click.echo("\n".join(["arguments:", *(f"  {line}" for line in arguments)]) if arguments else "arguments: none")
    click.echo(f"\n{inspect.getdoc(target) or ''}".rstrip())
