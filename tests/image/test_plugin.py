"""The image plugin as it ships: names, weights, and that the models draw what is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tropism_image
from tropism import api, assemble, plugins
from tropism.diffusion.flow_samplers import FlowSde, Ode
from tropism.diffusion.noise import sample_seed
from tropism.diffusion.rollout import collect, replay
from tropism.diffusion.samplers import DDIM, Consistency, Sampler
from tropism.policies.cache import Conditions
from tropism.policy import Policy
from tropism.types import Condition
from tropism_image.captions import EmojiCaptions
from tropism_image.evaluators.diversity import Diversity
from tropism_image.evaluators.frechet import Frechet, frechet, moments
from tropism_image.generators.emoji import consistency, diffusion, flow
from tropism_image.rewards.alignment import Alignment, AlignmentB

PACKAGE = Path(tropism_image.__file__).parent


@pytest.fixture(scope="module")
def catalog() -> plugins.Catalog:
    return plugins.manager()[1]


@pytest.fixture(scope="module")
def student() -> Policy:
    return consistency()


def conditions(policy: Policy, prompts: list[str]) -> Condition:
    items = [{"prompt": prompt} for prompt in prompts]
    seeds = torch.tensor([sample_seed(7, index) for index in range(len(items))])
    return Condition(items=items, encoded=Conditions(policy).encode(items), seed=seeds, group=torch.arange(len(items)))


def test_every_entry_of_the_plugin_can_be_loaded(catalog):
    names = [(kind, name) for (kind, name), origin in catalog.origin.items() if origin == "image"]
    assert len(names) >= 17 and not catalog.faults
    for kind, name in names:
        assert api.recipe_text(name, catalog) if kind == "recipes" else callable(catalog.load(kind, name))


def test_every_shipped_recipe_passes_check_and_states_what_it_gives(catalog, tmp_path):
    (tmp_path / "0.png").write_bytes(b"a picture that no check decodes")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "0.png", "rejected": "0.png"}) + "\n")
    for name in catalog.entries["recipes"]:
        made, text, where = api.load_recipe(name, catalog)
        if made.offline is not None:  # its data are the user's
            made = api.load_recipe(name, catalog, [f"offline.path={tmp_path}"])[0]
        if made.data.use == "3d/picture-tokens":  # so are these
            (tmp_path / "0.npz").touch()
            made = api.load_recipe(name, catalog, [f"data={{use: 3d/picture-tokens, train: {tmp_path}}}"])[0]
        assemble.check(made, catalog, text, where)
        assert made.name == name
        assert "Measured" in text or name.startswith("toy/"), f"{name} does not say what it was measured to give"


def test_the_shipped_weights_stay_under_twenty_mebibytes():
    assert 0 < sum(file.stat().st_size for file in PACKAGE.rglob("*.safetensors")) <= 20 * 2**20


def test_the_shipped_folders_do_not_say_where_they_were_made():
    configs = list((PACKAGE / "weights").rglob("*.json"))
    assert len(configs) >= 12 and not [path for path in configs if "_name_or_path" in path.read_text()]


def test_captions_are_split_without_overlap():
    known, new = EmojiCaptions(), EmojiCaptions(unseen=True)
    train, held, unseen = ({item["prompt"] for item in part} for part in (known.train, known.heldout, new.heldout))
    assert not train & held and not train & unseen and not held & unseen
    assert len(held) == (len(held) + len(train)) // 5 and len(EmojiCaptions(limit=10).train) == 10


@pytest.mark.parametrize("scorer", [Alignment, AlignmentB])
@pytest.mark.parametrize(
    ("build", "sampler", "steps", "most"), [(consistency, Consistency(), 4, 7), (diffusion, DDIM(0.0), 12, 7), (flow, Ode(), 12, 6)]
)
def test_samples_show_what_was_asked_for(build, sampler: Sampler, steps: int, most: int, scorer):
    """Among eight prompts, each picture's own prompt should score highest for most: chance is one."""
    prompts = ["red apple", "cat face", "umbrella", "grinning face", "frog", "pizza", "sunflower", "penguin"]
    policy = build()
    rollout = collect(policy, conditions(policy, prompts), sampler, steps)
    with torch.no_grad():
        image = policy.decode(rollout.x0)["image"]
    reward = scorer()
    table = torch.stack([reward(image, [prompt] * len(prompts)) for prompt in prompts], 1)
    hits = (table.argmax(1) == torch.arange(len(prompts))).sum().item()
    print(f"{hits} of {len(prompts)}")
    assert hits >= most, f"{hits} of {len(prompts)} pictures fit their own prompt best"


@pytest.mark.parametrize(("build", "sampler", "steps"), [(consistency, Consistency(), 4), (diffusion, DDIM(1.0), 5), (flow, FlowSde(), 5)])
def test_the_first_ratio_is_exactly_one(build, sampler: Sampler, steps: int):
    policy = build()
    rollout = collect(policy, conditions(policy, ["frog", "pizza", "ghost", "tiger face"]), sampler, steps)
    for index in rollout.steps.on.nonzero().flatten().tolist():
        logp = replay(policy, sampler, rollout, torch.arange(4), torch.full((4,), index))
        assert torch.equal((logp - rollout.steps.logp[:, index]).exp(), torch.ones(4))


def test_frechet_of_a_set_to_itself_is_zero_and_of_a_shift_its_square():
    features = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    mean, cov = moments(features)
    assert frechet(mean, cov, mean, cov) == pytest.approx(0, abs=1e-9)
    assert frechet(mean, cov, mean + 2, cov) == pytest.approx(5 * 4)
    assert frechet(mean, cov, mean, 4 * cov) == pytest.approx(cov.trace().item())


def test_evaluators_tell_a_collapsed_set_from_a_varied_one(student):
    rollout = collect(student, conditions(student, ["frog", "frog", "pizza", "pizza"]), Consistency(), 2)
    rollout.cond.group = torch.tensor([0, 0, 1, 1])
    with torch.no_grad():
        rollout.media = student.decode(rollout.x0)
    ((_, varied),) = Diversity()(rollout, rollout)
    same = {"image": rollout.media["image"][[0, 0, 2, 2]]}
    rollout.media = same
    ((_, collapsed),) = Diversity()(rollout, rollout)
    assert (varied > 1e-3).all() and torch.allclose(collapsed, torch.zeros(4), atol=1e-5)
    ((name, estimate),) = Frechet(resamples=5)(rollout, rollout)
    assert name == "image/frechet" and estimate.low < estimate.mean < estimate.high


def test_a_short_run_writes_all_that_is_promised(tmp_path):
    small = ["train.iterations=2", "rollout.samples=16", "rollout.batch=16"]
    small += ["evaluate.prompts=2", "evaluate.per_prompt=2", "evaluate.every=2"]
    folder, status = api.run("image/rlcm-compress", small, folder=tmp_path / "run")
    assert status in ("finished", "guarded")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["recipe"] == "image/rlcm-compress" and summary["samples"] == 32
    before, after = summary["metrics"]["image/jpeg-size"]["before"], summary["metrics"]["image/jpeg-size"]["after"]
    assert before[1] <= before[0] <= before[2] and after[0] != before[0]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row.keys() == {"step", "samples", "seconds", "name", "value"} for row in rows)
    assert [row["value"] for row in rows if row["name"] == "train/first_ratio_error"] == [0.0, 0.0]
    tiles = json.loads((folder / "samples" / "step-00000000" / "index.json").read_text())["tiles"]
    assert len(tiles) == 4 and (folder / "samples" / "step-00000000" / tiles[0]["file"]).read_bytes().startswith(b"\x89PNG")
    assert "jpeg-size" in (folder / "report.html").read_text()


def test_shipping_edits_a_configuration_without_losing_its_nulls(tmp_path, monkeypatch):
    """``mid_block_type: null`` is what makes the U-Net load; dropping it would bring the default block back."""
    monkeypatch.syspath_prepend(str(PACKAGE.parents[1] / "training"))
    from ship import edit

    config = tmp_path / "config.json"
    config.write_text(json.dumps({"mid_block_type": None, "_name_or_path": "x", "dtype": "float16"}))
    edit(config, {"_name_or_path": None, "dtype": "float32"})
    assert json.loads(config.read_text()) == {"mid_block_type": None, "dtype": "float32"}
    assert json.loads((PACKAGE / "weights/student/unet/config.json").read_text())["mid_block_type"] is None
