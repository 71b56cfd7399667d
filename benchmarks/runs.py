"""Runs of a comparison, each made once: one that has finished is used again, one that was stopped goes on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tropism import api
from tropism.errors import RecipeError
from tropism.recipe import Recipe, read

Curve = dict[str, list[float]]  # step, samples, seconds and one list for each evaluated metric


def complete(folder: Path, name: str, changes: Sequence[str], wanted: Recipe, where: str, console: Console) -> None:
    """Make the run of recipe ``name`` with ``changes``, which together are ``wanted``, in ``folder``, or bring it to its end.

    Raises RecipeError for a run with other settings (``where`` says what else to give), KeyboardInterrupt where it was stopped.
    """
    if not (folder / "recipe.yaml").exists():
        api.run(name, changes, folder=folder, console=console)
    elif read(folder / "recipe.yaml") != wanted:
        raise RecipeError(f"{folder} holds a run with other settings; give another {where}, or remove it")
    elif not finished(folder):
        api.resume(folder, console=console)
    if not finished(folder):
        raise KeyboardInterrupt


def finished(folder: Path) -> bool:
    """Whether a run folder holds a run that has come to its end."""
    summary = folder / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["status"] == "finished"


def evaluations(file: Path) -> Curve:
    """What ``metrics.jsonl`` says of each evaluation. An evaluation's own seconds are those since the line before it."""
    curve: Curve = defaultdict(list)
    spent, before = 0.0, 0.0
    for row in (json.loads(line) for line in file.read_text().splitlines()):
        name = row["name"].removeprefix("eval/")
        if name != row["name"] and not name.endswith(("/low", "/high")):
            if row["step"] not in curve["step"]:
                curve["step"].append(row["step"])
                curve["samples"].append(row["samples"])
                curve["seconds"].append(before - spent)
                spent += row["seconds"] - before
            curve[name].append(row["value"])
        before = row["seconds"]
    return dict(curve)
