"""``tropism schema``: the recipe's format, for editors."""

from __future__ import annotations

import json

import click


@click.command("schema", epilog="\b\nExamples:\n  tropism schema > recipe.schema.json\n  tropism schema | jq '.properties | keys'")
def command() -> None:
    """Print the JSON schema of a recipe."""
    from tropism.recipe import Recipe

    click.echo(json.dumps(Recipe.model_json_schema(), indent=1))
