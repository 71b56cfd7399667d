"""Two processes judge as one does: the same pairs of the same samples, also where groups branch, and so the same update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.core.test_processes import metrics, run, together, values, weights
from tropism import plugins
from tropism.loop import Run
from tropism.progress import Progress
from tropism.recipe import parse
from tropism.scale.processes import Processes

RECIPE = """\
name: test/judges
policy: {{use: toy/mixture}}
data: {{use: prompts, train: [a, b, c, d, e]}}
adapter: {{kind: full}}
rollout: {{sampler: {{use: ddim, eta: 1.0}}, steps: 4, samples: 32, batch: 8, group: 4, start: {start}}}
rewards: [{{use: toy/near, normalise: {normalise}}}]
credit: {credit}
optimizer: {optimizer}
train: {{iterations: 2, lr: 1e-3, updates: 2, micro: 4}}
evaluate: {{every: 2, prompts: 1, per_prompt: 4, show: 1}}
save: {{every: 2}}
"""
CASES = {
    "d3po": RECIPE.format(
        start="group", normalise="running", credit="{use: best-worst, scale: 1.0, noisy: true}", optimizer="{use: d3po, beta: 1.0}"
    ),
    "dpo": RECIPE.format(start="sample", normalise="batch", credit="{use: all-pairs, scale: 0.5}", optimizer="{use: dpo, beta: 5}"),
    "spo": RECIPE.format(
        start="sample", normalise="group", credit="{use: all-pairs, least: 0.05}", optimizer="{use: spo, beta: 1.0, skip: 1}"
    ),
}


@pytest.fixture(params=CASES)
def recipe(request, tmp_path) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(CASES[request.param])
    return str(file)


def judged(recipe: str, folder: Path) -> tuple[dict[Any, list[float]], dict[int, list[float]], list[Any]]:
    """(this process's pairs, by the seeds of their samples; reward and advantage of all samples; the advantages of its own)."""
    processes, made = Processes.join(), parse(Path(recipe).read_text(), "recipe")
    job = Run(made, folder, plugins.silent(), plugins.installed()[1], Progress(Console(quiet=True)), processes)
    job.step = 3
    own, whole = job.source.credited(job.source.score(job.source.collect()))
    processes.leave()
    seeds, found = own.cond.seed.tolist(), own.couples
    pairs = zip(found.winner.tolist(), found.loser.tolist(), found.weight.tolist(), found.chance.tolist(), strict=True)
    told = zip(whole.cond.seed.tolist(), whole.reward.tolist(), whole.advantage.tolist(), strict=True)
    mine = [(seed, own.cond.items[row]["prompt"], own.advantage[row].item()) for row, seed in enumerate(seeds)]
    return {(seeds[w], seeds[lo]): [weight, chance] for w, lo, weight, chance in pairs}, {seed: rest for seed, *rest in told}, mine


def test_two_processes_make_the_pairs_of_one(recipe, tmp_path):
    pairs, told, samples = judged(recipe, tmp_path)
    (first, *firsts), (second, *seconds) = values(together(lambda: judged(recipe, tmp_path)))
    assert pairs and any(weight for weight, _ in pairs.values())
    assert not first.keys() & second.keys() and (first | second).keys() == pairs.keys()
    for pair, found in (first | second).items():
        assert found == pytest.approx(pairs[pair], abs=1e-5), pair
    for of_all, mine in (firsts, seconds):
        assert of_all.keys() == told.keys() and set(mine) <= set(samples), "each has its own samples' advantages"
        assert all(of_all[seed] == pytest.approx(value, abs=1e-5) for seed, value in told.items())
    assert len(firsts[1]) + len(seconds[1]) == len(samples)


def test_two_processes_learn_from_preferences_what_one_learns(recipe, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(recipe, one) == "finished"
    assert values(together(lambda: run(recipe, two))) == ["finished", "finished"]
    assert (weights(one, 2) - weights(two, 2)).abs().max() < 1e-5
    first, second = metrics(one), metrics(two)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key] == pytest.approx(value, abs=2e-5, rel=1e-4), key
