"""The run folder: where everything of a run is, and nothing anywhere else.

``recipe.yaml`` (resolved), ``env.json``, ``plugins.json``, ``metrics.jsonl``, ``summary.json``, ``samples/``, ``checkpoints/``,
``log.txt`` and ``report.html``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import tropism
from tropism.errors import RecipeError
from tropism.recipe import Recipe, read
from tropism.rewards.base import units

if TYPE_CHECKING:
    from tropism.loop import Run


def create(root: Path, recipe: Recipe, plugin_files: tuple[Path, ...] = ()) -> Path:
    """A new folder under ``root`` named after the recipe and its seed (with a number if that is taken), with recipe and environment."""
    stem = f"{recipe.name.replace('/', '-')}-seed{recipe.seed}"
    number, folder = 1, root / stem
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
            folder = root / f"{stem}-{number}"
    fill(folder, recipe, plugin_files)
    return folder


def fill(folder: Path, recipe: Recipe, plugin_files: tuple[Path, ...] = ()) -> None:
    """Write what describes a run before it begins; ``recipe.yaml``, which makes the folder a run, last and whole."""
    (folder / "env.json").write_text(json.dumps(environment(), indent=1))
    (folder / "plugins.json").write_text(json.dumps([str(path.resolve()) for path in plugin_files]))
    write_recipe(folder, recipe)


def settled(recipe: Recipe) -> Recipe:
    """The recipe with relative paths made absolute, so that a run can be resumed from another working directory.

    A path is a text argument of a part that names something here and now and looks like a path: it has a separator or a suffix. (A name
    such as ``group`` stays what it is, also beside a folder of that name.)
    """
    return Recipe.model_validate(_settled(recipe.model_dump(mode="json")))


def _settled(value: Any) -> Any:
    if isinstance(value, list):
        return [_settled(item) for item in value]
    if not isinstance(value, dict):
        return value
    is_part = "use" in value
    return {
        key: str(Path(inner).resolve()) if is_part and key != "use" and _is_path(inner) else _settled(inner) for key, inner in value.items()
    }


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or not (os.sep in value or Path(value).suffix):
        return False
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # longer than a path may be, or with a null character
        return False


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """``recipe.yaml``, by renaming, so that a crash leaves the old one or the new one."""
    temporary = folder / ".recipe.yaml"
    temporary.write_text(recipe.dump())
    temporary.replace(folder / "recipe.yaml")


def open_run(folder: Path) -> tuple[Recipe, tuple[Path, ...]]:
    """The recipe and the single-file plugins of an existing run. Raises RecipeError where this is no run folder."""
    if not (folder / "recipe.yaml").is_file():
        raise RecipeError(f"{folder} is not a run folder: it has no recipe.yaml; 'tropism run' prints the folder it writes")
    files = folder / "plugins.json"
    return read(folder / "recipe.yaml"), tuple(Path(p) for p in (json.loads(files.read_text()) if files.is_file() else []))


def environment() -> dict[str, str]:
    """Versions and hardware, for ``env.json``, the report and ``tropism doctor``."""
    packages = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    return {
        "tropism": tropism.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": device,
        **{name: importlib.metadata.version(name) for name in packages},
    }


def write_summary(run: Run, status: str) -> None:
    """``summary.json``: the run in numbers, for a program to read."""
    before = run.evaluations[0][1] if run.evaluations else {}
    after = run.evaluations[-1][1] if run.evaluations else {}
    summary = {
        "recipe": run.recipe.name,
        "seed": run.recipe.seed,
        "status": status,
        "seconds": round(run.clock.elapsed(), 2),
        "phases": {name: round(seconds, 2) for name, seconds in run.clock.phases.items()},
        "iterations": run.step,
        "kept_step": run.guard.kept_step(run.step),
        "evaluated": run.evaluations[-1][0] if run.evaluations else 0,
        "samples": run.step * run.recipe.rollout.samples,
        "trained": [part.use for part in run.recipe.rewards],
        "units": units(run.rewards),
        "alarms": run.alarms,
        "metrics": {name: {"before": before[name], "after": after[name]} for name in after if name in before},
    }
    (run.folder / "summary.json").write_text(json.dumps(summary, indent=1))
