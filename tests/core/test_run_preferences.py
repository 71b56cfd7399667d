"""Online preferences through the loop: a hidden reward rises, and shuffled labels teach nothing; what has no pairs is refused."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from tropism import api, assemble, plugins
from tropism.errors import RecipeError
from tropism.recipe import parse

RECIPE = """\
name: test/preferences
policy: {{use: toy/mixture, parametrization: {parametrization}}}
data: {{use: prompts, train: [a]}}
adapter: {{kind: full}}
rollout: {{sampler: {sampler}, steps: 6, samples: 256, batch: 256, group: 4, start: {start}}}
rewards:
  - {{use: toy/near}}
credit: {credit}
optimizer: {optimizer}
train: {{iterations: 20, lr: 3e-3, updates: 2, micro: 1024}}
evaluate: {{every: 20, prompts: 1, per_prompt: 512, show: 1}}
save: {{every: 20}}
"""
CASES = {
    "d3po": {"sampler": "{use: ddim}", "start": "group", "optimizer": "{use: d3po, beta: 1.0}"},
    "d3po, one-sided": {"sampler": "{use: ddim}", "start": "group", "optimizer": "{use: d3po, beta: 1.0, sides: one, reference: rollout}"},
    "spo": {"sampler": "{use: ddim}", "optimizer": "{use: spo, beta: 1.0}"},
    "dpo": {"optimizer": "{use: dpo, beta: 5}"},
    "inpo": {"optimizer": "{use: inpo, beta: 5, draws: 2}"},
    "smpo": {"optimizer": "{use: smpo, beta: 1, draws: 2}"},
    "kto": {"optimizer": "{use: kto, beta: 2}"},
    "dro": {"optimizer": "{use: dro, kl: 0.5}"},
    "flow-dpo": {"optimizer": "{use: dpo, beta: 5, noise: own, keep: 0.5}", "parametrization": "flow"},
}
JUDGED = "{use: best-worst}"
SHUFFLED = "{use: best-worst, scale: 1e9, noisy: true}"
QUIET = Console(file=io.StringIO())


def text(case: dict[str, str], credit: str) -> str:
    return RECIPE.format(**{"sampler": "{use: ode}", "start": "sample", "parametrization": "epsilon", "credit": credit, **case})


def run(tmp_path, name: str, credit: str) -> dict[str, list[float]]:
    file = tmp_path / "recipe.yaml"
    file.write_text(text(CASES[name], credit))
    folder, _ = api.run(str(file), [], folder=tmp_path / "run", console=QUIET)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {kind: [row["value"] for row in rows if row["name"] == kind] for kind in {row["name"] for row in rows}}


@pytest.mark.parametrize("name", CASES)
def test_the_hidden_reward_rises(tmp_path, name):
    found = run(tmp_path, name, JUDGED)
    before, after = found["eval/toy/near"]
    assert after > before + 0.5, found["eval/toy/near"]
    assert found["train/zero_advantage_share"] == [0.5] * 20, "two of four siblings are paired"
    assert ("train/growth" if name == "dro" else "train/implicit_accuracy") in found and "train/first_ratio_error" in found


@pytest.mark.parametrize("name", CASES)
def test_shuffled_labels_give_no_gain(tmp_path, name):
    found = run(tmp_path, name, SHUFFLED)
    (before, after), (low, _) = found["eval/toy/near"], found["eval/toy/near/low"]
    assert after < before + 2 * (before - low) + 0.15, found["eval/toy/near"]


def problems(case: dict[str, str], credit: str) -> str:
    made = text(case, credit)
    with pytest.raises(RecipeError) as told:
        assemble.check(parse(made, "r"), plugins.manager()[1], made, "r")
    return str(told.value)


def test_what_has_no_pairs_is_refused():
    assert "line 8: credit: 'dpo' learns from pairs, but 'batch' makes none; use best-worst, all-pairs or pareto" in problems(
        CASES["dpo"], "{use: batch}"
    )


def test_what_needs_segments_is_refused_where_whole_samples_are_judged():
    found = problems({"optimizer": "{use: densedpo}"}, JUDGED)
    assert "line 9: optimizer: 'densedpo' learns from labels of segments, but judges of a rollout compare whole samples; use dpo" in found


def test_d3po_needs_one_first_noise_and_noisy_steps():
    case = {**CASES["d3po"], "start": "sample"}
    assert "line 5: rollout: 'd3po' compares samples that begin with the same noise; write start: group" in problems(case, JUDGED)
    assert "'d3po' learns from noisy steps" in problems({**CASES["d3po"], "sampler": "{use: ode}"}, JUDGED)


def test_the_candidates_of_a_step_are_in_one_batch():
    case = CASES["spo"]
    assert not assemble.check(parse(text(case, JUDGED), "r"), plugins.manager()[1]).optimizer.skip
    made = text(case, JUDGED).replace("batch: 256", "batch: 2")
    with pytest.raises(RecipeError, match=r"line 5: rollout\.batch: 'spo' takes the steps of a group together; 2 is not a multiple of"):
        assemble.check(parse(made, "r"), plugins.manager()[1], made, "r")
    assert "skip: 5 of 6 steps leaves none to learn from; expected at most 4" in problems(
        {**case, "optimizer": "{use: spo, skip: 5}"}, JUDGED
    )


def test_an_option_that_makes_no_sense_is_refused_with_the_reason():
    assert "'dro' has no average: its loss has no reference" in problems({"optimizer": "{use: dro, average: 0.9}"}, JUDGED)
    assert "'d3po' has no keep: the errors of a winner's" in problems({**CASES["d3po"], "optimizer": "{use: d3po, keep: 0.5}"}, JUDGED)
    assert "'kto' has no keep: it weighs a loser" in problems({"optimizer": "{use: kto, keep: 0.5}"}, JUDGED)


def test_a_consistency_model_is_not_made_a_denoiser():
    assert "'dpo' trains a denoiser on its own samples" in problems({**CASES["dpo"], "sampler": "{use: consistency}"}, JUDGED)


def test_a_group_of_one_has_no_siblings():
    made = text(CASES["dpo"], "{use: batch}").replace("group: 4, start: sample", "group: 1, start: group").replace("use: dpo", "use: nft")
    with pytest.raises(RecipeError, match=r"start: group is for siblings, but rollout.group is 1"):
        assemble.check(parse(made.replace(", beta: 5", ""), "r"), plugins.manager()[1], made, "r")
