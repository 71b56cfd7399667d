"""The comparison of methods that make furniture stand: what it chooses, what it averages, and a run of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def dso(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("dso")
    for name in ("dso", "dso_page", "results", "runs"):
        sys.modules.pop(name, None)


def at(standing: float, score: float, volume: float) -> dict[str, list[float]]:
    return {"3d/stable-20": [standing, 0, 0], "3d/f-score": [score, 0, 0], "3d/volume": [volume, 0, 0]}


def test_a_checkpoint_counts_only_at_equal_geometry(dso):
    base = at(0.8, 0.84, 0.1)
    assert dso.chosen([base, at(0.9, 0.81, 0.104), at(0.99, 0.79, 0.1), at(0.98, 0.84, 0.106)]) == 1
    assert dso.chosen([base, at(0.9, 0.79, 0.1)]) == 0
    assert dso.chosen([base, at(0.79, 0.84, 0.1)]) == 0


def test_seeds_are_averaged_with_their_interval(dso):
    found = dso.over_seeds([at(0.8, 0.8, 0.1), at(0.9, 0.8, 0.1)])
    assert found["3d/stable-20"] == pytest.approx([0.85, 0.85 - 12.7062 * 0.05, 0.85 + 12.7062 * 0.05], rel=1e-4)


def test_moving_latents_up_the_barrier_raises_it_and_keeps_them_near(dso):
    from tropism import api
    from tropism_3d.rewards.barrier import Barrier

    job = api.base("3d/dso-direct")
    items = job.heldout_items[:6]
    before, after = (made.media["occupancy"] for made in (dso.made(job, items), dso.climb(job, items)))
    rise = Barrier()(after) - Barrier()(before)
    assert rise.mean() > 0.001 and (rise > -1e-6).all() and (after - before).square().mean() < 0.02


def test_a_small_one_gives_a_page(dso, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dso.py", "--quick", "--methods", "barrier", "--seeds", "0", "--runs", str(tmp_path)])
    dso.main()
    found = json.loads((tmp_path / "dso.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["base", "best of 4", "test-time optimisation", "barrier", "barrier, last"]
    assert found["curves"]["barrier"][0]["steps"] == [0, 1, 2] and found["pictures"] == {"choosing": 4, "telling": 4}
    assert found["rows"][0]["found"]["3d/volume-ratio"][0] == 1
    assert "| base | " in (tmp_path / "dso.md").read_text() and "<svg" in (tmp_path / "dso.svg").read_text()
    capsys.readouterr()
    dso.main()  # what was measured is not measured again
    assert "measured" not in capsys.readouterr().err and json.loads((tmp_path / "dso.json").read_text())["rows"] == found["rows"]
    shutil.rmtree(tmp_path / "quick" / "barrier-seed0")
    dso.main()  # a run that is made again is measured again
    assert "barrier-seed0 2-telling: measured" in capsys.readouterr().err
