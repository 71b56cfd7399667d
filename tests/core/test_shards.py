"""Sharded weights (FSDP2): two processes learn what one learns, their checkpoints are plain, and a process with less to do keeps up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

from tests.conformance.image_flow import sd3
from tests.core.test_processes import QUIET, RECIPE, metrics, run, state, together, values, weights
from tropism import api, exports, plugins
from tropism.diffusion.rollout import replay
from tropism.errors import PolicyError, RecipeError
from tropism.loop import Run
from tropism.policies.adapters import Lora, Trainable
from tropism.progress import Progress
from tropism.recipe import parse
from tropism.rollouts import Rollouts
from tropism.scale.processes import Processes
from tropism.scale.shards import Sharded, blocks, is_shard

BRIGHT = """
from tropism import Entry, hookimpl

@hookimpl
def register_rewards():
    return [Entry("image/bright", "bright_reward:bright", "")]

def bright(image):
    return image.flatten(1).mean(1)
"""
PIPELINE = """\
name: test/sharded
policy: {use: pipeline, source: MODEL, call: {guidance_scale: 3.0, height: 16, width: 16}}
data: {use: prompts, train: [a dog, the sea, a cat, the sun]}
adapter: {kind: lora, rank: 2, targets: [to_q, to_v], ema: 0.9}
rollout: {sampler: {use: flow-sde}, steps: 3, samples: 8, batch: 2, group: 2, decode: 1}
rewards: [{use: image/bright, normalise: group}]
optimizer: {use: policy-gradient, kl: 0.1}
train: {iterations: 2, lr: 1e-2, shard: true, checkpointing: true}
evaluate: {every: 2, prompts: 2, per_prompt: 2, show: 1}
save: {every: 1, keep: 9}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(RECIPE.replace("train: {", "train: {shard: true, "))
    return str(file)


@pytest.fixture(scope="module")
def both(recipe, tmp_path_factory) -> tuple[Path, Path]:
    """A run in one process, in which nothing is sharded, and the same in two."""
    one, two = (tmp_path_factory.mktemp(name) / "run" for name in ("one", "two"))
    assert run(recipe, one) == "finished"
    assert values(together(lambda: run(recipe, two))) == ["finished", "finished"]
    return one, two


def test_two_processes_with_half_of_the_weights_each_learn_what_one_learns(both):
    one, two = both
    for step in (2, 4, 6):
        assert (weights(one, step) - weights(two, step)).abs().max() < 1e-5
    first, second = metrics(one), metrics(two)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key] == pytest.approx(value, abs=2e-5, rel=1e-4), key
    assert second[1, "train/first_ratio_error"] == 0


def test_a_checkpoint_is_plain_and_goes_on_exactly_or_in_another_number_of_processes(both, recipe, tmp_path):
    one, two = both
    for part in ("trainable", "optimizer"):
        assert [(name, t.shape) for name, t in leaves(state(one)[part])] == [(name, t.shape) for name, t in leaves(state(two)[part])]
    again, fewer = tmp_path / "again", tmp_path / "fewer"
    for folder in (again, fewer):
        assert values(together(lambda folder=folder: run(recipe, folder, "train.iterations=3"))) == ["finished", "finished"]
    assert values(together(lambda: api.resume(again, 6, console=QUIET))) == ["finished", "finished"]
    assert torch.equal(weights(again), weights(two)) and str(state(again)["optimizer"]) == str(state(two)["optimizer"])
    assert metrics(again) == metrics(two)
    assert api.resume(fewer, 6, console=QUIET) == "finished"
    assert (weights(fewer) - weights(one)).abs().max() < 1e-5


def test_older_copies_of_the_weights_are_shards_too(recipe, tmp_path):
    change = ["optimizer={use: nft, draws: 2, kl: 0.1}", "train.iterations=2", "train.passes=1", "evaluate.every=2"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(recipe, one, *change) == "finished"
    assert values(together(lambda: run(recipe, two, *change))) == ["finished", "finished"]
    assert (weights(one, 2) - weights(two, 2)).abs().max() < 1e-5
    old = [state(folder, 2)["algorithm"]["old"] for folder in (one, two)]
    for name, value in old[0].items():
        torch.testing.assert_close(old[1][name], value, rtol=0, atol=1e-5)
    assert values(together(lambda: api.resume(two, 3, console=QUIET))) == ["finished", "finished"]


def leaves(tree: Any, path: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        return [(path, tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [leaf for key, value in items for leaf in leaves(value, f"{path}/{key}")]


def test_a_transformer_with_lora_is_sharded_by_its_blocks_and_learns_the_same(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    sd3().save_pretrained(tmp_path / "model")
    (tmp_path / "bright_reward.py").write_text(BRIGHT)
    file = tmp_path / "recipe.yaml"
    file.write_text(PIPELINE.replace("MODEL", str(tmp_path / "model")))
    reduced: list[int] = []
    seen: dict[str, Any] = {}

    def work(name: str) -> Any:
        import torch.distributed as dist

        scatter, update, credited = dist.reduce_scatter_tensor, Run.update, Rollouts.credited

        def counting(*args: Any, **kwargs: Any) -> Any:
            reduced.append(1)
            return scatter(*args, **kwargs)

        def uneven(self: Rollouts, rollout: Any) -> Any:
            own, whole = credited(self, rollout)
            own.advantage[[row >= 4 for row in self.mine]] = 0  # the last two groups: with two processes all of the second one's
            seen["rollout"] = own
            return own, whole

        def watched(self: Run, material: Any) -> dict[str, float]:
            before = len(reduced)
            found, rollout = update(self, material), seen.pop("rollout")
            network = self.policy.trainable()
            inside = sum(isinstance(part, FSDPModule) for part in network.modules() if part is not network)
            seen.update(root=isinstance(network, FSDPModule), inside=inside)
            seen.update(shards=all(is_shard(p) for p in network.parameters()), reduced=len(reduced) - before)
            with self.engine.precision(), torch.no_grad():
                again = replay(self.policy, self.sampler, rollout, torch.arange(2), torch.zeros(2, dtype=torch.int64))
            seen["moved"] = bool((again - rollout.steps.logp[:2, 0]).abs().max() > 0)
            return found

        dist.reduce_scatter_tensor, Run.update, Rollouts.credited = counting, watched, uneven
        try:
            return api.run(str(file), folder=tmp_path / name, plugin_files=[tmp_path / "bright_reward.py"], console=QUIET)[1], dict(seen)
        finally:
            dist.reduce_scatter_tensor, Run.update, Rollouts.credited = scatter, update, credited

    assert work("one") == ("finished", {"root": False, "inside": 0, "shards": False, "reduced": 0, "moved": True})
    told = values(together(lambda: work("two")))
    for status, found in told:
        assert status == "finished" and found["root"] and found["shards"] and found["moved"]
        assert found["inside"] == len(blocks(sd3().transformer)) > 0
        assert found["reduced"] <= found["inside"] + 1, "gradients meet once an update, not once a batch"
    for step in (1, 2):
        assert (weights(tmp_path / "one", step) - weights(tmp_path / "two", step)).abs().max() < 1e-5
    done = exports.export(tmp_path / "two", tmp_path / "lora", weights="last")
    assert done.format == "lora" and list((tmp_path / "lora").glob("*.safetensors")), "one process exports what was sharded"


def test_what_cannot_be_sharded_is_refused():
    text = RECIPE.replace("train: {", "train: {shard: true, compile: eager, ")
    with pytest.raises(RecipeError, match=r"train\.shard: a sharded network is not compiled"):
        Run(parse(text, "recipe"), Path(), plugins.silent(), plugins.installed()[1], Progress(QUIET))
    network = torch.nn.Linear(2, 2)
    network.scale = torch.nn.Parameter(torch.tensor(1.0))

    def scalar() -> None:
        Processes.join()
        Sharded(network, torch.device("cpu"), 2)

    assert all(how == PolicyError.__name__ and "train.shard: Linear cannot" in what for how, what in together(scalar))


def test_weights_are_exchanged_in_the_memory_of_the_shards():
    def exchanged() -> Any:
        Processes.join()
        torch.manual_seed(0)
        trainable = Trainable(torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1)), None, ema=0.5)
        x, before = torch.ones(2, 3), trainable.module(torch.ones(2, 3)).detach()
        Sharded(trainable.module, torch.device("cpu"), 2)
        trainable.hold()
        told = [torch.allclose(trainable.module(x), before)]
        with torch.no_grad():
            for parameter in trainable.parameters.values():
                parameter.add_(1.0)
        moved = trainable.module(x).detach()
        with trainable.reference(), torch.no_grad():
            told.append(torch.allclose(trainable.module(x), before))
        trainable.update_average()
        with trainable.averaged(), torch.no_grad():
            halfway = trainable.module(x)
        told += [torch.equal(trainable.module(x), moved), not torch.allclose(moved, before), not torch.allclose(halfway, moved)]
        return told

    assert values(together(exchanged)) == [[True] * 5] * 2


def test_blocks_are_found_by_name_or_as_the_items_of_lists():
    transformer = sd3().transformer
    Trainable(transformer, Lora(2, 2.0, ("to_q",)))
    assert {type(block).__name__ for block in blocks(transformer)} == {"JointTransformerBlock"}
    plain = torch.nn.Module()
    plain.layers = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.nn.Sequential(torch.nn.Linear(2, 2))])
    plain.heads = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Conv1d(2, 2, 1)])
    assert blocks(plain) == [plain.layers[1], plain.layers[0]]
