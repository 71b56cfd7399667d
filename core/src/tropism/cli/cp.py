"""``tropism cp``: a shipped recipe as a file of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from tropism.cli import options
from tropism.cli.catalog import look
from tropism.errors import RecipeError


@click.command("cp", epilog="\b\nExamples:\n  tropism cp toy/ddpo my.yaml\n  tropism cp toy/ddpo my.yaml && tropism run my.yaml")
@click.argument("recipe")
@click.argument("file", type=click.Path(path_type=Path))
@options.plugin_files
def command(recipe: str, file: Path, plugin_files: tuple[Path, ...]) -> None:
    """Copy a registered recipe to a file.

    RECIPE comes with its comments. A FILE that exists is never overwritten.
    """
    from tropism.api import recipe_text

    text = recipe_text(recipe, look(plugin_files))
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError as error:
        raise RecipeError(f"{file} exists already, and cp overwrites nothing; give another name or remove it") from error
    except OSError as error:
        raise RecipeError(f"{file} cannot be written: {error.strerror}") from error
    click.echo(f"{file} written; see what it asks for with: tropism check {file}")
