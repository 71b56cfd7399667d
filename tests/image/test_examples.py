"""The examples do what they say, on a tiny model of random weights."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import tropism_image.captions
import tropism_image.generators.emoji
import tropism_image.plugin
from tests import tiny
from tests.examples import command, load
from tropism import api, assemble
from tropism.policies.pipeline import PipelinePolicy, capture
from tropism.recipe import parse
from tropism_image.rewards.jpeg import JpegSize

EXAMPLES = Path(__file__).parents[2] / "plugins" / "image" / "examples"
ITEMS = [{"prompt": text} for text in ("a red apple", "a dog", "the sea", "sky", "two cats")]


def policy() -> PipelinePolicy:
    return capture(tiny.latent_consistency(), guidance_scale=3.0)


def test_the_written_out_loop_makes_files_smaller():
    rlcm, model = load(EXAMPLES / "rlcm.py"), policy()
    before = rlcm.sample(model, ITEMS, 1000)
    first = JpegSize()(rlcm.sample(model, ITEMS[:1] * 8, 0).media["image"]).mean().item()
    sizes = rlcm.align(model, ITEMS[:1], iterations=6, samples=8, lr=3e-3)
    after = rlcm.sample(model, ITEMS, 1000)
    assert len(sizes) == 6
    assert sizes[0] == pytest.approx(first), "the first iteration's samples are the base model's"
    assert torch.equal(before.steps.x[:, 0], after.steps.x[:, 0]), "the same noise"
    assert JpegSize()(after.media["image"]).mean() < JpegSize()(before.media["image"]).mean()


def test_the_script_saves_before_and_after(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tropism_image.generators.emoji, "consistency", policy)
    monkeypatch.setattr(tropism_image.captions, "EmojiCaptions", lambda: SimpleNamespace(train=ITEMS, heldout=ITEMS[:3]))
    monkeypatch.setattr(sys, "argv", ["rlcm.py", "--iterations", "1"])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "rlcm.py"), run_name="__main__")
    assert re.fullmatch(r" +1  \d+\.\d{3} kB\n", capsys.readouterr().out)
    with Image.open(tmp_path / "rlcm.png") as picture:
        side = policy().decode(torch.zeros(1, 4, tiny.SIDE, tiny.SIDE))["image"].shape[-1]
        assert picture.size == (3 * side, 2 * side)


def test_a_plain_pipeline_is_steered(monkeypatch, tmp_path, capsys):
    tiny.latent_consistency().save_pretrained(tmp_path / "model")
    steer = load(EXAMPLES / "steer.py")
    monkeypatch.setattr(steer, "STUDENT", tmp_path / "model")
    monkeypatch.setattr(steer, "CALL", {"guidance_scale": 3.0})
    steer.main("a red apple", 2, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["best of n", "steered"] and all("; 8 forwards" in line for line in lines)
    with Image.open(tmp_path / "steer.png") as picture:
        assert picture.size[0] == 2 * picture.size[1]


def test_the_loop_fits_on_a_screen():
    assert len((EXAMPLES / "rlcm.py").read_text().splitlines()) <= 80


def test_redness_is_a_plugin_and_its_command_names_it():
    file = EXAMPLES / "own_reward.py"
    manager, catalog = api.loaded([file])
    assert manager.has_plugin("own_reward")
    redness = catalog.load("rewards", "image/redness")
    colours = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 1, 0], [0.8, 0.2, 0.6]])
    pictures = colours[:, :, None, None].expand(-1, -1, 4, 6)
    torch.testing.assert_close(redness(pictures), torch.tensor([1.0, 0.0, -0.5, 0.4]))
    name, given, (flag, path) = command(redness.__globals__["__doc__"])
    assert (flag, Path(path).name) == ("--plugin", "own_reward.py")
    (target,) = [entry.target for entry in tropism_image.plugin.register_recipes() if entry.name == name]
    text = (Path(tropism_image.plugin.__file__).parent / target.partition(":")[2]).read_text()
    recipe = parse(text, name, given)
    assert recipe.guard is None and recipe.name == "image/rlcm-redness"
    trained, _ = assemble.rewards(parse(text, name, [*given, "evaluate={}"]), catalog)
    (part,) = trained.parts
    assert (part.name, part.weight) == ("image/redness", 1.0)
    assert part.reward is redness
