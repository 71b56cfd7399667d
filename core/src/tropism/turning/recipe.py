"""The prompts of a recipe, or of a run with its newest weights, steered into a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from tropism import api, assemble, checkpoint, gallery, plugins, report, runfolder
from tropism.errors import CheckpointError, RecipeError
from tropism.plugins import Catalog
from tropism.recipe import Loader, Part, Recipe
from tropism.report.told import Told
from tropism.turning.folder import UNSTEERED, Way, write
from tropism.turning.pipeline import DEFAULT
from tropism.types import Item


def steer_recipe(
    source: str,
    folder: Path,
    overrides: Sequence[str] = (),
    method: str | None = None,
    particles: int | None = None,
    compare: Sequence[str] = (),
    *,
    items: Sequence[Item] | int = 4,
    seed: int = 0,
    base: bool = False,
    plugin_files: Sequence[Path] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Told:
    """Steer ``items`` (or so many held-out ones) of a recipe, or with the newest weights of a run folder, and write ``folder``.

    method: the recipe's own, or ``fk``, by default. Raises RecipeError, before any weight is loaded, for what cannot be steered, and where
    ``folder`` holds something.
    """
    gallery.refuse_full(folder, "--out, or 'folder' from Python")
    run_folder = Path(source) if Path(source).is_dir() else None
    files = runfolder.open_run(run_folder)[1] if run_folder else tuple(plugin_files)
    catalog = api.loaded(files)[1]
    place = str(run_folder / "recipe.yaml") if run_folder else source
    recipe, text, where = api.load_recipe(place, catalog, [*_changes(place, method, particles, catalog), *overrides])
    recipe = runfolder.settled(recipe)
    ways = _ways(recipe, compare, catalog, text, where)
    newest = checkpoint.latest(run_folder / "checkpoints") if run_folder and not base else None
    if run_folder and not base and newest is None:
        raise CheckpointError(f"{run_folder} has no checkpoint yet; steer its base model with --base")
    job = api.sampled(recipe, files)
    if newest is not None:
        job.trainable.load_state_dict(checkpoint.load(newest)["trainable"])
    chosen = job.heldout_items[:items] if isinstance(items, int) else items
    with job.trainable.averaged():
        told = write(job, chosen, ways, seed, folder, say)
    report.steered(folder, plugins.views(catalog))
    return told


def _changes(place: str, method: str | None, particles: int | None, catalog: Catalog) -> list[str]:
    """What a recipe's ``steering`` becomes for the method that was asked for."""
    text = Path(place).read_text() if Path(place).is_file() else api.recipe_text(place, catalog)
    data = yaml.load(text, Loader=Loader)
    section = data.get("steering") if isinstance(data, dict) else None
    own = section.get("use") if isinstance(section, dict) else None
    changes = [] if method in (None, own) and own else [f"steering={json.dumps({'use': method or DEFAULT})}"]
    return [*changes, *([f"steering.particles={particles}"] if particles else [])]


def _ways(recipe: Recipe, compare: Sequence[str], catalog: Catalog, text: str, where: str) -> list[Way]:
    """The recipe's method and those to compare, each checked with its sampler and rewards before any weight is loaded."""
    assert recipe.steering is not None
    first = assemble.check(recipe, catalog, text, where).steering
    assert first is not None
    ways = [Way(recipe.steering.use.replace("/", "-"), recipe.steering, first)]
    for name in compare:
        catalog.find("steering", name)
        part = Part.model_validate({"use": name, "particles": first.particles})
        made = assemble.check(recipe.model_copy(update={"steering": part}), catalog, "", f"--compare {name}").steering
        assert made is not None
        ways.append(Way(name.replace("/", "-"), part, made))
    names = [UNSTEERED, *(way.label for way in ways)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"'{twice}' is compared with itself; name each method once")
    return ways
