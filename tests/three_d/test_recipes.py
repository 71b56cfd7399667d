"""The recipes fit together, and DSO runs from pictures to a report, with a sample that has no surface among the others."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from tropism import api, assemble, plugins
from tropism.errors import RecipeError
from tropism.recipe import parse

RECIPES = ("dso-dpo", "dso-dro", "dso-direct", "dso-dpo-paper", "dso-dro-paper", "shap-e-dso-dpo")


def test_trellis_recipe_has_the_papers_numbers_and_asks_for_tokens(tmp_path: Path):
    catalog = plugins.manager()[1]
    text = api.recipe_text("3d/trellis-dso-dro", catalog)
    with pytest.raises(RecipeError, match="tokens/train has 0 npz files; expected a folder of 1 to 1,000,000, one for each picture"):
        assemble.check(parse(text, "trellis"), catalog, text, "trellis")
    for name in ("b", "a"):
        np.savez(tmp_path / f"{name}.npz", tokens=np.zeros((3, 4)))
    recipe = parse(text, "trellis", [f"data={{use: 3d/picture-tokens, train: {tmp_path}}}"])
    parts = assemble.check(recipe, catalog, text, "trellis")
    assert parts.train == parts.heldout == [{"prompt": name, "tokens": str(tmp_path / f"{name}.npz")} for name in ("a", "b")]
    numbers, train = recipe.arithmetic(), recipe.train
    assert (numbers["optimizer steps in all"], numbers["samples per optimizer step"], train.warmup * train.updates) == (4000, 48, 2000)
    assert (recipe.adapter.rank, recipe.adapter.alpha, train.lr, train.weight_decay, recipe.rollout.steps) == (64, 128, 5e-6, 0.01, 12)
    other = [line.split("too: ")[1] for line in text.splitlines() if "With DPO" in line]
    dpo = parse(text, "dpo", [*shlex.split(other[0]), f"data={{use: 3d/picture-tokens, train: {tmp_path}}}"])
    assemble.check(dpo, catalog, text, "dpo")
    assert dpo.arithmetic()["optimizer steps in all"] == 8000 and dpo.optimizer.arguments["beta"] == 500


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_fits_together(name: str):
    catalog = plugins.manager()[1]
    text = api.recipe_text(f"3d/{name}", catalog)
    parts = assemble.check(parse(text, name), catalog, text, name)
    assert parts.train and parts.heldout


def test_the_papers_numbers_are_the_papers():
    recipe = api.load_recipe("3d/dso-dpo-paper", plugins.manager()[1])[0]
    assert (recipe.adapter.rank, recipe.adapter.alpha, recipe.train.lr, recipe.rollout.steps) == (64, 128, 5e-6, 12)
    assert recipe.arithmetic()["optimizer steps in all"] == 8000 and recipe.arithmetic()["samples per optimizer step"] == 48
    assert api.load_recipe("3d/dso-dro-paper", plugins.manager()[1])[0].arithmetic()["optimizer steps in all"] == 4000


@pytest.mark.parametrize("name", ["dso-dpo", "dso-dro", "dso-direct"])
def test_dso_runs_from_pictures_to_a_report(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tropism_3d.generators.furniture_flow import FurnitureFlow

    decode = FurnitureFlow.decode

    def first_is_empty(self: FurnitureFlow, x0: torch.Tensor) -> dict[str, torch.Tensor]:
        made = decode(self, x0)["occupancy"]
        return {"occupancy": torch.cat([torch.zeros_like(made[:1]), made[1:]])}

    monkeypatch.setattr(FurnitureFlow, "decode", first_is_empty)
    small = ["train.iterations=1", "train.updates=1", "train.passes=1", "rollout.samples=8", "rollout.batch=8", "rollout.steps=4"]
    small += ["evaluate.every=1", "evaluate.prompts=2", "evaluate.show=2", "adapter.rank=2"]
    small += ["optimizer.last=[1, 4]"] if name == "dso-direct" else []
    folder, status = api.run(f"3d/{name}", small, folder=tmp_path / "run")
    assert status == "finished"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {row["name"]: row["value"] for row in metrics if row["step"] == 1}
    assert found["eval/3d/meshless"] == 0.5 and 0 <= found["eval/3d/stable-20"] <= 0.5
    assert (folder / "samples/step-00000001/0000.txt").read_text() == "empty"
    assert (folder / "report.html").read_text().count("data-mesh=") >= 2
