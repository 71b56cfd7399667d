"""The examples of 3D do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.examples import command, load
from tests.three_d.test_barrier import N, box
from tropism import api, assemble
from tropism.recipe import parse
from tropism_3d.furniture import Furniture
from tropism_3d.view import read

EXAMPLES = Path(__file__).parents[2] / "plugins" / "3d" / "examples"


def test_furniture_is_made_to_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    load(EXAMPLES / "stand.py").main("Scopia/office_chair", 4, 4, tmp_path)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "chair (Scopia/office_chair), turned 0°, mirrored"
    told = [re.fullmatch(r"(\w+) +(\d) of 4 stand; F-score 0\.\d\d; they tilt by( \d+°){4}", line) for line in lines]
    assert [line[1] for line in told if line] == ["independent", "steered", "moved"]
    independent, _, moved = (int(line[2]) for line in told if line)
    assert moved == 4 > independent, "what was moved stands"
    for label in ("independent", "steered", "moved"):
        assert len(read(tmp_path / f"{label}-1.glb").faces) > 100
    with Image.open(tmp_path / "stand.png") as sheet:
        assert sheet.size == (4 * 160, 3 * 160)


def test_airy_is_a_plugin_and_its_command_fits_together():
    file = EXAMPLES / "own_mesh_reward.py"
    manager, catalog = api.loaded([file])
    assert manager.has_plugin("own_mesh_reward")
    airy = catalog.load("rewards", "3d/airy")
    table = box(20, 2, 18) + box(4, 16, 2)
    solid, legged, nothing = airy(torch.stack([box(16, 16), table, torch.zeros(N, N, N)])).tolist()
    # A top of 20 x 20 x 2 on a post of 4 x 4 x 16, in a hull that is the top and the frustum below it, with sides of 4 and of 20.
    empty = 1 - (20 * 20 * 2 + 4 * 4 * 16) / (20 * 20 * 2 + 16 / 3 * (16 + 400 + 80))
    assert nothing == -1 and abs(solid) < 0.01 and legged == pytest.approx(empty, abs=0.03)
    name, given, (flag, path) = command(airy.__globals__["__doc__"])
    assert (flag, Path(path).name) == ("--plugin", "own_mesh_reward.py")
    text = api.recipe_text(name, catalog)
    recipe = parse(text, name, given)
    assert assemble.check(recipe, catalog, text, name).train[0]["object"] == Furniture().train[0]["object"]
    (part,) = assemble.rewards(recipe, catalog)[0].parts
    assert recipe.name == "3d/airy" and part.reward is airy
