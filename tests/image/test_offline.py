"""Pairs of the shipped model's own pictures: written, read back as the latents they came from, and learned from by the shipped recipes."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from tropism import api, plugins
from tropism.data.feedback import Feedback
from tropism.errors import RecipeError
from tropism.plugins import views
from tropism_image.generators.emoji import flow

QUIET = Console(file=io.StringIO())
SMALL = ["rollout.steps=2", "rollout.samples=8", "rollout.batch=8"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "pairs"
    assert api.pairs("image/dpo-compress", folder, 3, SMALL) == 0
    return folder


def test_pairs_of_a_model_are_feedback_in_which_the_preferred_one_scores_higher(pairs):
    summary = Feedback(pairs / "feedback.jsonl").read()
    assert (summary.votes, len(summary.judgements), summary.faults) == (3, 3, [])
    lines = [json.loads(line) for line in (pairs / "feedback.jsonl").read_text().splitlines()]
    assert len(list((pairs / "media").iterdir())) == 6 and {line["choice"] for line in lines} <= {"a", "b"}
    assert {line["annotator"] for line in lines} == {"-1 image/jpeg-size + 4 image/alignment"}
    catalog = plugins.installed()[1]
    size, fits = (catalog.load("rewards", name)() for name in ("image/jpeg-size", "image/alignment"))
    load = views(catalog)["image"].load
    for line in lines:
        media = torch.stack([load([(pairs / line[side]).read_bytes()], (3, 64, 64)) for side in "ab"])
        score = -size(media) + 4 * fits(media, [line["prompt"]] * 2)
        assert (score[0] > score[1]) == (line["choice"] == "a")


def test_a_judge_with_a_scale_writes_probabilities(tmp_path):
    api.pairs("image/dpo-compress", tmp_path / "soft", 2, [*SMALL, "credit={use: best-worst, scale: 0.5}"])
    lines = [json.loads(line) for line in (tmp_path / "soft/feedback.jsonl").read_text().splitlines()]
    assert all(0 < line["choice"] < 1 and line["choice"] != 0.5 for line in lines)


def test_what_compares_nothing_writes_no_pairs(pairs, tmp_path):
    with pytest.raises(RecipeError, match="recipe image/ddpo-compress compares no samples of its own"):
        api.pairs("image/ddpo-compress", tmp_path / "none", 2, ["rollout.samples=8", "rollout.batch=8", "rollout.group=8"])
    with pytest.raises(RecipeError, match="exists and is not an empty folder"):
        api.pairs("image/dpo-compress", pairs, 2, SMALL)


def test_the_shipped_model_knows_its_pictures_again():
    """Through its own encoder: x0 within a tenth of its spread, pictures within 3 % of their range."""
    policy = flow(guidance=1.0)
    x0 = policy.embed({"image": torch.full((1, 3, 64, 64), 0.5)})
    picture = policy.decode(x0)["image"]
    again = policy.decode(policy.embed({"image": picture}))["image"]
    assert (again - picture).square().mean().sqrt() < 0.03


@pytest.mark.parametrize("name", ["image/dpo-offline", "image/inpo-offline"])
def test_the_shipped_recipes_learn_from_a_folder_of_pairs(pairs, tmp_path, name):
    small = ["train.iterations=2", "rollout.samples=3", "rollout.batch=3", "rollout.steps=2", "evaluate.prompts=1", "evaluate.per_prompt=1"]
    folder, status = api.run(name, [f"offline.path={pairs}", *small, "guard=null"], folder=tmp_path / "run", console=QUIET)
    assert status == "finished"
    log = (folder / "log.txt").read_text()
    assert "data: 3 rows read, 3 records usable, 0 ties" in log
    error = float(log.split("root mean square error of ")[1].split()[0])
    assert 0 < error < 0.04
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["value"] for row in rows if row["name"] == "train/loss"]
    assert len(losses) == 2 and losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[1] != losses[0]
    assert (folder / "report.html").exists() and json.loads((folder / "summary.json").read_text())["trained"] == []
