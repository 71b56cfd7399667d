"""The benchmark of steering: best-of-N from a pool, what counts as a win, and a whole run on the toy."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
import torch

from tropism.errors import RecipeError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmarks as modules, forgotten afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__
    for name in {file.stem for file in BENCHMARKS.glob("*.py")} & set(sys.modules):
        del sys.modules[name]


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_best_of_n_is_the_mean_over_all_ways_to_draw_n(benchmark, n):
    pool = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = benchmark("steering_versus").best_of(pool, other, n)
    draws = [list(rows) for rows in itertools.combinations(range(6), n)]
    best = torch.stack([pool[:, rows].max(1).values for rows in draws]).mean(0)
    there = torch.stack([other[:, rows].gather(1, pool[:, rows].argmax(1, keepdim=True))[:, 0] for rows in draws]).mean(0)
    torch.testing.assert_close(found[0], best)
    torch.testing.assert_close(found[1], there)


def test_between_whole_numbers_it_goes_straight_and_ends_with_the_pool(benchmark):
    module, pool = benchmark("steering_versus"), torch.tensor([[3.0, 1.0, 2.0, 5.0]])
    two, three = (module.best_of(pool, pool, n)[0] for n in (2, 3))
    torch.testing.assert_close(module.best_of(pool, pool, 2.25)[0], 0.75 * two + 0.25 * three)
    torch.testing.assert_close(module.best_of(pool, -pool, 9)[1], torch.tensor([-5.0], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"best of 0.5 samples; expected 1 or more"):
        module.best_of(pool, pool, 0.5)


def test_a_method_is_compared_with_as_many_samples_as_it_pays_for(benchmark):
    pools = [{"reward": [[0.0, 1.0]], "held out": [[5.0, 7.0]], "forwards": 8.0, "seconds": 4.0}]
    runs = [{"reward": [[2.0]], "held out": [[7.0]], "forwards": 8.0, "seconds": 2.0, "calls": 3.0, "roots": [1]}]
    forwards, seconds = (benchmark("steering_versus").against(runs, pools, what) for what in ("forwards", "seconds"))
    assert (forwards["n"], seconds["n"]) == (2.0, 1.0)
    assert forwards["reward"][0] == pytest.approx(1.0) and forwards["held out"][0] == pytest.approx(0.0)
    assert seconds["reward"][0] == pytest.approx(1.5) and seconds["held out"][0] == pytest.approx(1.0)
    assert not forwards["beyond the pool"]


def test_wins_are_computed(benchmark):
    page = benchmark("steering_page")
    assert [page.verdict(interval) for interval in ([1, 0.5, 2], [1, -0.1, 2], [-1, -2, -0.5])] == ["wins", "level", "loses"]

    def row(method: str, n: int, low: float) -> dict[str, object]:
        one = {"reward": [low + 1, low, low + 2], "held out": [0, -1, 1]}
        return {"method": method, "n": n, "equal forwards": one, "equal seconds": one}

    kept = page.told([row("fk", 2, -1.5), row("fk", 4, 0.1), row("fk", 8, 0.2), row("psp", 4, -3)])
    assert "wins: fk 4, fk 8; level: fk 2; loses: psp 4." in kept[0]
    assert kept[-1].endswith("held-out one): kept.")
    assert page.told([row("fk", 4, 0.1), row("fk", 8, -0.2)])[-1].endswith("**not kept** (1 of 2).")


def test_a_quick_run_writes_the_page_and_is_used_again(benchmark, monkeypatch, tmp_path, capsys):
    module = benchmark("steering")
    monkeypatch.setattr(module, "BASE", "toy/ddpo")
    monkeypatch.setattr(module, "HELD_OUT", "toy/near")
    monkeypatch.setattr(module, "SHARED", ("device=cpu", "evaluate.rewards=[{use: toy/near}]", "evaluate.evaluators=[]", "guard=null"))
    monkeypatch.setattr(module, "REWARDS", {"near": "rewards=[{use: toy/near}]"})
    monkeypatch.setattr(module, "QUICK", module.Model("the toy", ("rollout.steps=4",), 4, {"near": ()}, 8, (2, 4), (2,)))
    module.main([str(tmp_path), "--quick", "--seeds", "0", "1"])
    found = json.loads((tmp_path / "steering.json").read_text())
    (model,) = found["models"].values()
    rows = {(row["method"], row["n"]): row for row in model["rows"]}
    assert set(rows) == {
        ("fk", 4),
        *((name, 2) for name, method in module.METHODS.items() if not method.where or "student" in method.where),
    }
    assert [(row["n"], row["forwards"]) for row in model["pool"]] == [(1, 4), (2, 8), (4, 16), (8, 32)]
    assert rows["fk", 4]["forwards"] == 16 and rows["fk", 4]["equal forwards"]["n"] == 4
    assert rows["zero-order", 2]["reward"] == pytest.approx(rows["zero-order", 2]["held out"])
    assert [row["particles"] for row in found["cost"]["rows"]] == [1, 2]
    page = (tmp_path / "steering.md").read_text()
    assert page == capsys.readouterr().out[:-1] and "python benchmarks/steering.py" in page
    assert (tmp_path / "steering.svg").stat().st_size > 1000
    monkeypatch.setattr(module, "measure", None)  # nothing is measured again
    module.main([str(tmp_path), "--quick", "--seeds", "0", "1"])
    with pytest.raises(RecipeError, match="was measured with other settings; give another OUT, or remove it"):
        module.main([str(tmp_path), "--quick", "--seeds", "0", "--set", "rollout.batch=8"])
