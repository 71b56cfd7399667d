"""Overrides of a recipe on the command line: ``dotted.path=value``, with the value read as YAML."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tropism.errors import RecipeError


def change(data: dict[str, Any], override: str, loader: type[yaml.SafeLoader]) -> None:
    """Do in the content of a recipe what an override says. Raises RecipeError."""
    match = re.fullmatch(r"([A-Za-z_][\w.-]*)=(.*)", override, re.DOTALL)
    if not match:
        raise RecipeError(f"override '{override}': expected dotted.path=value, such as train.lr=3e-4")
    try:
        path, value = match[1].split("."), yaml.load(match[2], Loader=loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"override '{override}': the value is not YAML: {error}") from error
    place: Any = data
    for key in path[:-1]:
        place = place[int(key)] if isinstance(place, list) and key.isdigit() and int(key) < len(place) else _inside(place, key, override)
    _inside(place, path[-1], override)
    place[path[-1]] = value


def _inside(place: Any, key: str, override: str) -> Any:
    if isinstance(place, list):
        raise RecipeError(f"override '{override}': '{key}' is no place in a list of {len(place)}")
    if not isinstance(place, dict):
        raise RecipeError(f"override '{override}': there is no '{key}' inside a {type(place).__name__}")
    if place.get(key) is None:
        place[key] = {}
    return place[key]
