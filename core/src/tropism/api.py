"""A run from Python or from the command line: recipe in, finished run folder out; and its model, to sample from and to measure.

Finding and reading a recipe needs no torch, so what does is imported inside the functions that train or sample.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    from tropism.loop import Run
    from tropism.scale.processes import Processes
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
    """Run a recipe, by file or registered name, to its end. Returns the run folder and how it ended.

    Under ``torchrun`` or ``accelerate launch`` this is one of several processes, which run it together.
    """
    manager, catalog = loaded(plugin_files)
    found = load_recipe(recipe, catalog, overrides)
    with _joined() as processes:
        made = Path(processes.from_main(lambda: str(_begin(found, catalog, folder, root, plugin_files, processes.size))))
        return made, _execute(made, manager, catalog, processes, console)


def prepare(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    folder: Path | None = None,
    root: Path = Path("runs"),
    plugin_files: Sequence[Path] = (),
    size: int = 1,
) -> Path:
    """A new run folder for a recipe that can run in ``size`` processes; :func:`resume` then begins at the beginning.

    Raises RecipeError, before anything is written, where it cannot run or where the folder holds a run.
    """
    _, catalog = loaded(plugin_files)
    return _begin(load_recipe(recipe, catalog, overrides), catalog, folder, root, plugin_files, size)


def resume(folder: Path, iterations: int | None = None, console: Console | None = None) -> str:
    """Go on with a run; ``iterations`` moves its end. Returns how it ended. Raises RecipeError for an end that has passed.

    It need not go on in as many processes as before: what is computed is the same, but for the rounding of sums.
    """
    from tropism import runfolder

    manager, catalog = loaded(runfolder.open_run(folder)[1])
    with _joined() as processes:
        processes.from_main(lambda: reopen(folder, iterations, processes.size))
        return _execute(folder, manager, catalog, processes, console)


def reopen(folder: Path, iterations: int | None = None, size: int = 1) -> None:
    """Make a run ready to go on in ``size`` processes, up to a new end if ``iterations`` gives one."""
    from tropism import checkpoint, runfolder
    from tropism.scale import spread

    recipe, _ = runfolder.open_run(folder)
    spread.refuse_uneven(recipe, size)
    if iterations is not None:
        newest = checkpoint.latest(folder / "checkpoints")
        if newest is not None and newest.name > checkpoint.step_folder(folder, iterations).name:
            raise RecipeError(f"{folder} cannot end at iteration {iterations}: its newest checkpoint is {newest.name}")
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"iterations": iterations})})
        runfolder.write_recipe(folder, recipe)


def trained(folder: Path) -> Run:
    """The model of a run at its newest checkpoint. Raises CheckpointError where there is none."""
    from tropism import checkpoint, runfolder

    recipe, plugin_files = runfolder.open_run(folder)
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is None:
        raise CheckpointError(f"{folder} has no checkpoint yet; it has one every {recipe.save.every} iterations and at its end")
    job = sampled(recipe, plugin_files)
    state = checkpoint.load(newest)
    job.trainable.load_state_dict(state["trainable"])
    job.step = state["step"]
    return job


def base(source: str, plugin_files: Sequence[Path] = ()) -> Run:
    """The model that a recipe (a file, a registered name or a run folder) starts from."""
    from tropism import runfolder

    if Path(source).is_dir():
        return sampled(*runfolder.open_run(Path(source)))
    return sampled(load_recipe(source, loaded(plugin_files)[1])[0], plugin_files)


def sample(job: Run, items: Sequence[Item], count: int = 1, seed: int = 0) -> Rollout:
    """``count`` samples of each item with all of the recipe's raw scores, made as the recipe's evaluation makes them.

    Their noise is of a stream of its own: none of it is the noise of a training or of an evaluation, whatever the seeds.
    """
    from tropism import sampling

    cond = sampling.condition([item for item in items for _ in range(count)], SAMPLING_SEED + seed, 0, count)
    with job.trainable.averaged():
        return sampling.scored(job, cond)


def evaluate(job: Run, fresh: int = 0, folder: Path | None = None) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """The recipe's evaluation of the base model and of ``job``'s weights, as in its run; nothing is logged.

    fresh: on so many held-out items that neither training nor the run's own evaluations, and so its guard and its reader, have seen: what
    is chosen by an evaluation looks better there than it is. Raises RecipeError where there are not as many. folder: a new or empty one,
    for the numbers, the samples of both models and a page of them side by side, ``report.html``; otherwise nothing is saved.
    """
    from tropism import contact_sheet, gallery, sampling

    items = _unseen(job, fresh) if fresh else None
    if folder is not None:
        gallery.refuse_full(folder, "--out, or 'folder' from Python")
    begin = job.clock.phases["evaluate"]
    with job.clock.phase("evaluate"):
        with job.trainable.reference():
            before = sampling.evaluation(job, items)
        with job.trainable.averaged():
            after = sampling.evaluation(job, items)
        found = sampling.measured(job, before, before), sampling.measured(job, after, before)
    if folder is not None:
        contact_sheet.write(job, folder, (before, after), found, job.clock.phases["evaluate"] - begin)
    return found


def _unseen(job: Run, count: int) -> list[Item]:
    """So many of the held-out items after those of the run's evaluations, without those that are trained on."""
    from tropism.types import content

    used, learned = job.recipe.evaluate.prompts, {content(item) for item in job.train_items}
    rest = job.heldout_items[used:]
    items = [item for item in rest if content(item) not in learned]
    if learned.issuperset(map(content, job.heldout_items)):
        raise RecipeError(
            f"{count} fresh held-out items asked for; the recipe's {len(job.heldout_items)} held-out items are those that are trained on, "
            "as where its data names none; only a recipe with held-out items of its own (data.heldout) has fresh ones"
        )
    if len(items) < count:
        trained_on = f", of which {len(rest) - len(items)} are trained on" if len(items) < len(rest) else ""
        raise RecipeError(
            f"{count} fresh held-out items asked for; beyond the {used} of its evaluations there are {len(rest)}{trained_on}; ask for fewer"
        )
    return items[:count]


def pairs(recipe: str, folder: Path, count: int, overrides: Sequence[str] = (), plugin_files: Sequence[Path] = ()) -> int:
    """``count`` pairs of a recipe's base model, judged by its rewards, as a data set in ``folder``. Returns how many ties were left out.

    Raises RecipeError where the recipe has no judge, or where the folder holds something.
    """
    from tropism import assemble, gallery, own_pairs

    gallery.refuse_full(folder, "FOLDER, or 'folder' from Python")
    catalog = loaded(plugin_files)[1]
    made, text, where = load_recipe(recipe, catalog, overrides)
    assemble.check(made, catalog, text, where)
    return own_pairs.write(sampled(made, plugin_files), folder, count)


def sampled(recipe: Recipe, plugin_files: Sequence[Path]) -> Run:
    """A Run that is only sampled from: without trackers and, as it neither logs nor saves, without a folder of its own."""
    from rich.console import Console

    from tropism.loop import Run
    from tropism.progress import Progress

    # Not compiled: that would take longer than the samples, and what is exported is compared with a network that is not.
    alone = recipe.model_copy(update={"track": (), "train": recipe.train.model_copy(update={"compile": None})})
    return Run(alone, Path(), *loaded(plugin_files), Progress(Console(quiet=True)))


@contextmanager
def _joined() -> Iterator[Processes]:
    """The processes that this one belongs to, left again at the end."""
    from tropism.scale.processes import Processes

    processes = Processes.join()
    try:
        yield processes
    finally:
        processes.leave()


def _begin(
    found: tuple[Recipe, str, str], catalog: plugins.Catalog, folder: Path | None, root: Path, plugin_files: Sequence[Path], size: int
) -> Path:
    from tropism import assemble, runfolder
    from tropism.scale import spread

    made, text, where = found
    assemble.check(made, catalog, text, where)
    spread.refuse_uneven(made, size)
    made = runfolder.settled(made)
    if folder is None:
        return runfolder.create(root, made, tuple(plugin_files))
    if (folder / "recipe.yaml").exists():
        raise RecipeError(f"{folder} already holds a run; go on with 'tropism resume {folder}', or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    runfolder.fill(folder, made, tuple(plugin_files))
    return folder


def _execute(folder: Path, manager: pluggy.PluginManager, catalog: plugins.Catalog, processes: Processes, console: Console | None) -> str:
    """Train in ``folder``. Whatever ends a run early leaves its stack trace in ``log.txt``. Only the main process prints and writes."""
    from rich.console import Console

    from tropism import report, runfolder, state
    from tropism.loop import Run
    from tropism.progress import Progress

    recipe, _ = runfolder.open_run(folder)
    if not processes.main:
        job = Run(recipe, folder, plugins.silent(), catalog, Progress(Console(quiet=True)), processes)
        state.restore(job)
        return job.train()
    log, every = folder / "log.txt", max(1, recipe.train.iterations // 25)
    try:
        with Progress(console or Console(), log, recipe.train.iterations, every) as progress:
            numbers = {**recipe.arithmetic(), **({"processes": processes.size} if processes.size > 1 else {})}
            progress.say(f"run folder {folder}: " + ", ".join(f"{value:,} {name}" for name, value in numbers.items()))
            job = Run(recipe, folder, manager, catalog, progress, processes)
            state.restore(job)
            status = job.train()
        report.build(folder, views=job.views)
    except Exception as error:
        with log.open("a") as file:
            file.write(traceback.format_exc())
        error.add_note(f"the stack trace is in {log}")
        raise
    return status
