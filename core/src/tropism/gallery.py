"""The samples of an evaluation on disk: one folder, one file a sample, and an ``index.json`` with prompts, seeds and scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.errors import RecipeError, TropismError
from tropism.types import Rollout, label

if TYPE_CHECKING:
    from tropism.loop import Run


def refuse_full(folder: Path, by: str) -> None:
    """Raise RecipeError where something would be written over; a folder that is not there yet, or empty, is free. by: how to name
    another one, such as ``--out``."""
    inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if inside or (folder.exists() and not folder.is_dir()):
        found = f"it holds {', '.join(inside[:3])}{', ...' if len(inside) > 3 else ''}" if inside else "it is a file"
        raise RecipeError(f"{folder} exists and is not an empty folder ({found}); remove it, or name another with {by}")


def save_samples(run: Run, samples: Rollout, prompts: int) -> Path:
    """Save the samples of the first ``prompts`` prompts by the view of their media. Written beside and renamed, so never half there."""
    folder = run.folder / "samples" / f"step-{run.step:08d}"
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    counters = {"step": run.step, "samples": run.step * run.recipe.rollout.samples}
    write(samples, run.views, temporary, prompts * run.recipe.evaluate.per_prompt, counters)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return folder


def drop_samples(folder: Path, step: int) -> None:
    """Remove the samples of evaluations later than ``step``, whose weights are no longer the run's."""
    for later in (folder / "samples").glob("step-*"):
        if int(later.name.removeprefix("step-")) > step:
            shutil.rmtree(later)


def write(samples: Rollout, views: Mapping[str, Any], folder: Path, most: int, counters: Mapping[str, int | str]) -> list[str]:
    """At most ``most`` samples as files, with an ``index.json`` that begins with ``counters``. Returns the file names."""
    kind, media = next(iter(samples.media.items()))
    if kind not in views:
        raise TropismError(f"no installed view shows '{kind}'; there are views of {', '.join(sorted(views)) or 'nothing'}")
    folder.mkdir(parents=True, exist_ok=True)
    view, tiles = views[kind], []
    for row in range(min(len(samples), most)):
        file = view.save(media[row], folder, f"{row:04d}")
        scores = {name: round(values[row].item(), 6) for name, values in samples.scores.items()}
        tiles.append({"prompt": label(samples.cond.items[row]), "seed": int(samples.cond.seed[row]), "file": file, "scores": scores})
    (folder / "index.json").write_text(json.dumps({**counters, "kind": kind, "tiles": tiles}, indent=1))
    return [tile["file"] for tile in tiles]
