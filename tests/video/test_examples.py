"""The example of clips: its reward, its command, and a tiny Wan pipeline that is steered."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conformance.families import FAMILIES
from tropism import api, assemble
from tropism.recipe import parse

FILE = Path(__file__).parents[2] / "plugins" / "video" / "examples" / "loops.py"


@pytest.fixture(scope="module")
def catalog():
    manager, catalog = api.loaded([FILE])
    assert manager.has_plugin("loops")
    return catalog


def test_a_clip_that_comes_back_is_worth_its_motion(catalog):
    grey = torch.tensor([[0.5, 0.5, 0.5], [0.2, 0.6, 0.2], [0.0, 0.5, 1.0]])
    video = grey[:, :, None, None, None].expand(-1, -1, 3, 4, 6)
    torch.testing.assert_close(catalog.load("rewards", "video/loops")(video), torch.tensor([0.0, 0.4, -0.5]))


def test_its_command_fits_together(catalog):
    said = catalog.load("rewards", "video/loops").__globals__["__doc__"]
    name, *words = shlex.split(re.search(r"^ +tropism run (.*?)\n\"*", said, re.MULTILINE)[1])
    given, (flag, path) = words[:-2], words[-2:]
    assert (flag, Path(path)) == ("--plugin", FILE.relative_to(FILE.parents[3]))
    text = api.recipe_text(name, catalog)
    recipe = parse(text, name, given)
    assemble.check(recipe, catalog, text, name)
    (part,) = assemble.rewards(parse(text, name, [*given, "evaluate={}"]), catalog)[0].parts
    assert recipe.name == "video/wan21-loops" and part.name == "video/loops"


def test_a_plain_pipeline_is_steered(catalog, monkeypatch, tmp_path, capsys):
    inside, wan = catalog.load("rewards", "video/loops").__globals__, FAMILIES["wan-2.1"]
    monkeypatch.setitem(inside, "CALL", {**wan.call, "guidance_scale": 3.0, "num_frames": 5, "num_inference_steps": 4})
    inside["main"](wan.build(), "a fan", 2, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    told = [re.fullmatch(r"(\w+): reward (-?\d\.\d{4}), mean -?\d\.\d{4}; [12] of 2 noises live on; (\w+\.webp)", line) for line in lines]
    assert [line[1] for line in told if line] == ["independent", "steered"]
    for line in told:
        with Image.open(tmp_path / line[3]) as clip:
            assert clip.n_frames == 5 and clip.size == (wan.call["width"], wan.call["height"])
