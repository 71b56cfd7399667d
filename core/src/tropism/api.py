"""A run from Python or from the command line: recipe in, finished run folder out; and its model, to sample from and to measure.

Finding and reading a recipe needs no torch, so what does is imported inside the functions that train or sample.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from tropism import plugins
from tropism.errors import CheckpointError, PluginError, RecipeError
from tropism.recipe import Mistakes, Recipe, parse, read_text

if TYPE_CHECKING:
    import pluggy
    from rich.console import Console

    from tropism.evaluate import Estimate
    from tropism.run import Run
    from tropism.types import Item, Rollout

SAMPLING_SEED = 2**32  # beyond the seeds of recipes and EVALUATION_SEED


def loaded(plugin_files: Sequence[Path] = ()) -> tuple[pluggy.PluginManager, plugins.Catalog]:
    """All plugins. Raises PluginError for a broken one among ``plugin_files``: it was asked for, so it is not left out."""
    manager, catalog = plugins.manager(plugin_files)
    asked = {f"{file.stem} ({file})" for file in plugin_files}
    if broken := [fault for fault in catalog.faults if fault.plugin in asked]:
        raise PluginError("\n".join(f"plugin {fault.plugin} is broken: {fault.reason}" for fault in broken))
    return manager, catalog


def load_recipe(name: str, catalog: plugins.Catalog, overrides: Sequence[str] = ()) -> tuple[Recipe, str, str]:
    """A recipe by file or by registered name, with its text and where it came from."""
    path = Path(name)
    text = read_text(path) if name.endswith((".yaml", ".yml")) or path.is_file() else recipe_text(name, catalog)
    try:
        return parse(text, name, overrides), text, name
    except Mistakes as found:
        from tropism import assemble

        raise assemble.also(found, catalog) from None


def recipe_text(name: str, catalog: plugins.Catalog) -> str:
    """The YAML of a registered recipe, comments and all."""
    entry = catalog.find("recipes", name)
    package, _, inner = entry.target.partition(":")
    try:
        return files(package).joinpath(inner).read_text()
    except (FileNotFoundError, ModuleNotFoundError) as error:
        raise PluginError(f"recipe '{name}': {entry.target} is missing from the installed package") from error


def run(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    folder: Path | None = None,
    root: Path = Path("runs"),
    plugin_files: Sequence[Path] = (),
    console: Console | None = None,
) -> tuple[Path, str]:
    """Run a recipe, by file or registered name, to its end. Returns the run folder and how it ended."""
    manager, catalog = loaded(plugin_files)
    made, text, where = load_recipe(recipe, catalog, overrides)
    from tropism import assemble, runfolder

    assemble.check(made, catalog, text, where)
    made = runfolder.settled(made)
    if folder is None:
        folder = runfolder.create(root, made, tuple(plugin_files))
    else:
        if (folder / "recipe.yaml").exists():
            raise RecipeError(f"{folder} already holds a run; go on with 'tropism resume {folder}', or name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        runfolder.fill(folder, made, tuple(plugin_files))
    return folder, _execute(made, folder, manager, catalog, console)


def resume(folder: Path, iterations: int | None = None, console: Console | None = None) -> str:
    """Go on with a run; ``iterations`` moves its end. Returns how it ended. Raises RecipeError for an end that has passed."""
    from tropism import checkpoint, runfolder

    recipe, plugin_files = runfolder.open_run(folder)
    manager, catalog = loaded(plugin_files)
    if iterations is not None:
        newest = checkpoint.latest(folder / "checkpoints")
        if newest is not None and newest.name > checkpoint.step_folder(folder, iterations).name:
            raise RecipeError(f"{folder} cannot end at iteration {iterations}: its newest checkpoint is {newest.name}")
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"iterations": iterations})})
        runfolder.write_recipe(folder, recipe)
    return _execute(recipe, folder, manager, catalog, console)


def trained(folder: Path) -> Run:
    """The model of a run at its newest checkpoint. Raises CheckpointError where there is none."""
    from tropism import checkpoint, runfolder

    recipe, plugin_files = runfolder.open_run(folder)
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is None:
        raise CheckpointError(f"{folder} has no checkpoint yet; it has one every {recipe.save.every} iterations and at its end")
    job = _model(recipe, plugin_files)
    job.trainable.load_state_dict(checkpoint.load(newest)["trainable"])
    return job


def base(source: str, plugin_files: Sequence[Path] = ()) -> Run:
    """The model that a recipe (a file, a registered name or a run folder) starts from."""
    from tropism import runfolder

    if Path(source).is_dir():
        return _model(*runfolder.open_run(Path(source)))
    return _model(load_recipe(source, loaded(plugin_files)[1])[0], plugin_files)


def sample(job: Run, items: Sequence[Item], count: int = 1, seed: int = 0) -> Rollout:
    """``count`` samples of each item with all of the recipe's raw scores, made as the recipe's evaluation makes them.

    Their noise is of a stream of its own: none of it is the noise of a training or of an evaluation, whatever the seeds.
    """
    cond = job.condition([item for item in items for _ in range(count)], SAMPLING_SEED + seed, 0, count)
    with job.trainable.averaged():
        return job.scored(cond)


def evaluate(job: Run) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """The recipe's evaluation of the base model and of ``job``'s weights, as in its run; nothing is logged or saved."""
    from tropism.evaluate import measure

    with job.trainable.reference():
        before = job.evaluation_samples()
    with job.trainable.averaged():
        after = job.evaluation_samples()
    return measure(before, before, job.evaluators), measure(after, before, job.evaluators)


def _model(recipe: Recipe, plugin_files: Sequence[Path]) -> Run:
    """A Run that is only sampled from: without trackers and, as it neither logs nor saves, without a folder of its own."""
    from rich.console import Console

    from tropism.progress import Progress
    from tropism.run import Run

    return Run(recipe.model_copy(update={"track": ()}), Path(), *loaded(plugin_files), Progress(Console(quiet=True)))


def _execute(recipe: Recipe, folder: Path, manager: pluggy.PluginManager, catalog: plugins.Catalog, console: Console | None) -> str:
    """Train in ``folder``. Whatever ends a run early leaves its stack trace in ``log.txt``."""
    from rich.console import Console

    from tropism import report
    from tropism.progress import Progress
    from tropism.run import Run

    log, every = folder / "log.txt", max(1, recipe.train.iterations // 25)
    try:
        with Progress(console or Console(), log, recipe.train.iterations, every) as progress:
            progress.say(f"run folder {folder}: " + ", ".join(f"{value:,} {name}" for name, value in recipe.arithmetic().items()))
            job = Run(recipe, folder, manager, catalog, progress)
            job.restore()
            status = job.train()
        report.build(folder, views=job.views)
    except Exception as error:
        with log.open("a") as file:
            file.write(traceback.format_exc())
        error.add_note(f"the stack trace is in {log}")
        raise
    return status
