"""The benchmark of options: its iterations are a run's, its page tells ratios to the plain run, its options are those of a recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tropism import api, assemble

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def options(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("options")
    sys.modules.pop("options", None)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are those that Linux tells")
def test_an_option_is_measured_in_iterations_of_a_run(options, monkeypatch):
    monkeypatch.setattr(options, "RECIPE", "toy/ddpo")
    found = options.iterate(["rollout.decode=4"], 2)
    assert len(found["seconds"]) == 2 and all(value > 0 for value in (found["first"], *found["seconds"]))
    assert found["ratio"] == 0 and min(found["rollout"], found["update"]) >= 0
    assert found["weights"] == pytest.approx(4 * (4 * 64 + 64 + 64 * 64 + 64 + 2 * 64 + 2) / 2**20)


def test_the_page_tells_ratios_to_the_plain_run(options):
    numbers = {"seconds": 2.0, "first": 3.0, "rollout": 50.0, "update": 100.0, "weights": 10.0, "ratio": 0.0}
    text = options.page({"plain": numbers, "checkpointing": {**numbers, "seconds": 3.0, "update": 40.0}}, 1, "python it")
    assert "| checkpointing | 3.00 | 1.50 | 3.00 | 50 | 1.00 | 40 | 0.40 | 10.0 | 0 |" in text and "    python it" in text


def test_every_option_is_one_that_the_recipe_may_have(options):
    _, catalog = api.loaded()
    plain = api.load_recipe(options.RECIPE, catalog, options.SETTINGS)[0]
    for name, option in options.OPTIONS.items():
        recipe = api.load_recipe(options.RECIPE, catalog, [*options.SETTINGS, *option.changes])[0]
        assemble.check(recipe, catalog)
        assert (recipe == plain) == (name == "plain")
        assert recipe.rollout.samples == plain.rollout.samples, "the same work"
