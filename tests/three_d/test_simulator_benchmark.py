"""The benchmark of the simulator measures what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def simulator(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("simulator")
    del sys.modules["simulator"]


def test_a_small_one_gives_every_figure(simulator, tmp_path, capsys):
    found = simulator.main(["--objects", "3", "--json", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text()) == found and found.keys() == {"furniture", "roughened"}
    for kind in found.values():
        stages = sum(kind["seconds"].values())
        assert kind["objects"] == 3 and 1 / kind["field to score"] == pytest.approx(stages)
        assert 1 / kind["mesh to score"] == pytest.approx(stages - kind["seconds"]["marching cubes"])
        assert sum(kind["status"].values()) == sum(kind["mass"].values()) == 3
        assert all(0 <= share <= 1 for share in [*kind["agree"].values(), *kind["stands"].values(), kind["stands in a sweep"]])
        assert kind["stands"]["5"] <= kind["stands"]["10"] <= kind["stands"]["20"]
    assert found["furniture"]["stands"]["20"] == 1
    assert "objects/s/core" in capsys.readouterr().out


def test_agreement_is_the_share_of_equal_labels(simulator):
    assert simulator.agreement([True, False, True, True], [True, True, True, False]) == 0.5


def test_roughening_is_the_same_every_time_and_no_small_thing(simulator):
    import torch

    fields = torch.full((2, 32, 32, 32), -1.0)
    one, two = simulator.roughened(fields), simulator.roughened(fields)
    assert torch.equal(one, two) and 0.5 < (one - fields).std() < 1.2 and (one > 0).any()
