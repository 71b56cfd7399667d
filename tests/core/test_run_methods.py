"""THE loop with every kind of optimizer and with windows: it learns, logs what it should, and resumes to the bit."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from tropism import api, checkpoint
from tropism.errors import CheckpointError

RECIPE = """\
name: test/methods
policy: {{use: toy/mixture, parametrization: {parametrization}}}
data: {{use: prompts, train: [a, b, c]}}
adapter: {{kind: full, ema: 0.9}}
rollout: {{sampler: {sampler}, steps: 5, samples: 16, batch: 8, group: 4{window}}}
rewards:
  - {{use: toy/near{normalise}}}
credit: {{use: {credit}}}
optimizer: {optimizer}
train: {{iterations: 6, lr: 1e-3, updates: 2, passes: 2}}
evaluate: {{every: 6, prompts: 2, per_prompt: 4, show: 1}}
save: {{every: 3, keep: 9}}
"""
CASES = {
    "flow-grpo": {"sampler": "{use: flow-sde}", "optimizer": "{use: policy-gradient, kl: 0.04}", "parametrization": "flow"},
    "mixgrpo": {
        "sampler": "{use: flow-sde}",
        "optimizer": "{use: policy-gradient}",
        "parametrization": "flow",
        "window": ", window: {size: 2, place: random, last: 4}",
    },
    "guard": {
        "sampler": "{use: cps}",
        "optimizer": "{use: policy-gradient, normalise: true}",
        "window": ", window: {size: 3, elsewhere: noise}",
    },
    "gdpo": {"sampler": "{use: ddim}", "optimizer": "{use: policy-gradient}", "normalise": ", normalise: group", "credit": "batch"},
    "nft": {"sampler": "{use: ode}", "optimizer": "{use: nft, decay: slow, draws: 2}", "parametrization": "flow"},
    "awm": {"sampler": "{use: ode, order: 2}", "optimizer": "{use: awm, draws: 2}", "parametrization": "v_prediction"},
    "d3po": {"sampler": "{use: ddim}", "optimizer": "{use: d3po, average: 0.9}", "window": ", start: group", "credit": "best-worst"},
    "dpo": {"sampler": "{use: ode}", "optimizer": "{use: dpo, beta: 5, keep: 0.5, draws: 2}", "credit": "all-pairs"},
    "inpo": {"sampler": "{use: ode}", "optimizer": "{use: inpo, mode: compat, eta: 0.1, draws: 2}", "credit": "best-worst"},
    "kto": {"sampler": "{use: ode}", "optimizer": "{use: kto, beta: 3, kl: balanced, average: 0.9, draws: 2}"},
    "dro": {"sampler": "{use: ode}", "optimizer": "{use: dro, kl: 0.1, draws: 2}", "parametrization": "flow"},
    "direct": {"sampler": "{use: ddim, eta: 0.5}", "optimizer": "{use: direct, last: [1, 3]}"},
    "hybrid": {"sampler": "{use: consistency}", "optimizer": "{use: rlcm-direct}"},
}
QUIET = Console(file=io.StringIO())


def text(case: dict[str, str]) -> str:
    return RECIPE.format(**{"parametrization": "epsilon", "window": "", "normalise": "", "credit": "group", **case})


def run(tmp_path, name: str, folder: str, *overrides: str):
    file = tmp_path / "recipe.yaml"
    file.write_text(text(CASES[name]))
    return api.run(str(file), overrides, folder=tmp_path / folder, console=QUIET)[0]


def numbers(folder) -> dict[str, list[float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: [row["value"] for row in rows if row["name"] == name] for name in {row["name"] for row in rows}}


def flat(tree, path=""):
    if isinstance(tree, dict):
        return {key: value for name, inner in tree.items() for key, value in flat(inner, f"{path}/{name}").items()}
    if isinstance(tree, list):
        return flat(dict(enumerate(tree)), path)
    return {path: tree}


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_is_an_unbroken_one(tmp_path, name):
    straight = run(tmp_path, name, "straight")
    broken = run(tmp_path, name, "broken", "train.iterations=3")
    assert api.resume(broken, 6, console=QUIET) == "finished"
    one, other = (flat(checkpoint.load(checkpoint.latest(folder / "checkpoints"))) for folder in (straight, broken))
    kept = [key for key in one if key.startswith(("/trainable", "/optimizer", "/algorithm", "/credit", "/combined"))]
    assert len(kept) > 20
    for key in kept:
        same = torch.equal(one[key], other[key]) if isinstance(one[key], torch.Tensor) else one[key] == other[key]
        assert same, key
    first, second = numbers(straight), numbers(broken)
    assert first["train/loss"] == second["train/loss"] and len(first["train/loss"]) == 6


def test_what_is_logged_says_what_was_learned_from(tmp_path):
    found = numbers(run(tmp_path, "flow-grpo", "run"))
    assert max(found["train/first_ratio_error"]) == 0 and found["train/base_kl"][0] < found["train/base_kl"][-1]
    assert found["train/equal_groups_share"] == [0.0] * 6 and found["train/zero_advantage_share"] == [0.0] * 6
    hybrid = numbers(run(tmp_path, "hybrid", "hybrid"))
    assert {"train/direct_reward", "train/ratio_error", "train/clip_fraction"} <= hybrid.keys()
    assert max(hybrid["train/first_ratio_error"]) == 0


def test_groups_of_equal_rewards_are_counted_and_teach_nothing(tmp_path):
    plugin = tmp_path / "flat.py"
    plugin.write_text(
        "from tropism import Entry, hookimpl\n\n@hookimpl\ndef register_rewards():\n    return [Entry('mine/flat', 'flat:flat', '')]\n\n"
        "def flat(points, prompt):\n    return [0.1 if p != 'b' else float(x) for p, x in zip(prompt, points[:, 0])]\n"
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(text(CASES["flow-grpo"]).replace("use: toy/near", "use: mine/flat"))
    folder, _ = api.run(str(file), [], folder=tmp_path / "run", plugin_files=[plugin], console=QUIET)
    found = numbers(folder)
    assert (
        set(found["train/equal_groups_share"]) <= {0.5, 0.75, 1.0}
        and found["train/equal_groups_share"] == found["train/zero_advantage_share"]
    )
    file.write_text(text(CASES["nft"]).replace("use: toy/near", "use: mine/flat").replace("[a, b, c]", "[a, c]"))
    folder, _ = api.run(str(file), [], folder=tmp_path / "nothing", plugin_files=[plugin], console=QUIET)
    found = numbers(folder)
    assert found["train/equal_groups_share"] == [1.0] * 6 and found["train/grad_norm"] == [0.0] * 6 and "train/loss" not in found
    state = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    assert state["algorithm"]["rollouts"] == 6


def test_a_window_costs_only_its_own_steps(tmp_path):
    """Two of five steps are trained: 16 samples x 2 steps a pass; and evaluation follows the ODE, so it repeats at any seed of noise."""
    whole, part = run(tmp_path, "flow-grpo", "whole"), run(tmp_path, "mixgrpo", "part")
    one, other = (numbers(folder) for folder in (whole, part))
    assert len(one["train/loss"]) == len(other["train/loss"]) == 6
    assert one["eval/toy/near"][0] != other["eval/toy/near"][0], "one evaluates by its SDE, the other by the ODE"
    again = numbers(run(tmp_path, "mixgrpo", "again", "evaluate.sampler={use: ode}"))
    assert again["eval/toy/near"] == other["eval/toy/near"]


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    folder = run(tmp_path, "awm", "run", "train.iterations=3")
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("use: awm", "use: nft"))
    with pytest.raises(CheckpointError, match="does not fit this recipe: 'old'"):
        api.resume(folder, 6, console=QUIET)
