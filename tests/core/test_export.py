"""Exports: what plain diffusers makes of them, what the card says, what is refused, and what goes to the Hub."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tropism
from tests import tiny
from tests.conformance.families import FAMILIES
from tropism import api, checkpoint
from tropism.cli import cli
from tropism.errors import CheckpointError
from tropism.exports import ExportError, compare, export, kohya, lora
from tropism.exports.push import push

PLUGIN = """\
from tropism import Entry, hookimpl

def bright(x0):
    return x0.square().flatten(1).mean(1)

@hookimpl
def register_rewards():
    return [Entry("mine/bright", "{module}:bright", "how bright it is")]

@hookimpl
def register_views():
    return [Entry("{module}/video", "tropism.toy:PointView", "never asked to show one")]
"""
ATTENTION, CONVOLUTIONS = ["to_q", "to_k", "to_v", "to_out.0"], ["conv1", "conv2"]
STEPS, PROMPT = 4, "a bowl"
CALLS: dict[str, dict[str, Any]] = {
    "sd": {"guidance_scale": 3.0, "height": 16, "width": 16},
    "lcm": {"guidance_scale": 3.0, "height": 16, "width": 16},
    "sd3": {"guidance_scale": 3.0, "height": 16, "width": 16, "max_sequence_length": 24},
    "pixart": FAMILIES["pixart-sigma"].call,
    "wan": FAMILIES["wan-2.2"].call,
}


@dataclass
class Made:
    """A run whose learned weights are far from zero, and the folder of its base model."""

    run: Path
    base: Path
    call: dict[str, Any]

    def trained(self, weights: str = "last") -> torch.Tensor:
        """Samples of the trained policy's own pipeline."""
        job = api.trained(self.run)
        if weights == "last":
            return self.sample(job.policy.pipe)
        with job.trainable.averaged():
            return self.sample(job.policy.pipe)

    def plain(self, folder: Path | None = None, dtype: torch.dtype = torch.float32) -> Any:
        """A pipeline as anyone loads it."""
        return DiffusionPipeline.from_pretrained(str(folder or self.base), dtype=dtype, use_safetensors=True)

    def sample(self, pipe: Any) -> torch.Tensor:
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        latents: torch.Tensor = pipe(PROMPT, num_inference_steps=STEPS, generator=generator, output_type="latent", **self.call)[0]
        return latents


def made(root: Path, name: str, pipe: Any, adapter: dict[str, Any], scale: float = 0.3, dtype: str = "float32") -> Made:
    """A run of one iteration, its checkpoint's weights then replaced by random ones."""
    call, plugin = CALLS[name], root / f"plugin_of_{root.name}.py"  # plugins are modules, so each has a name of its own
    pipe.save_pretrained(root / "base")
    plugin.write_text(PLUGIN.format(module=plugin.stem))
    recipe = {
        "name": f"mine/{name}",
        "device": "cpu",
        "policy": {"use": "pipeline", "source": str(root / "base"), "call": call, "dtype": dtype},
        "data": {"use": "prompts", "train": ["a red apple", "a cat"], "heldout": [PROMPT, "a dog"]},
        "adapter": adapter,
        "rollout": {"sampler": {"use": "consistency" if name == "lcm" else "ddim"}, "steps": STEPS, "samples": 2, "batch": 2},
        "rewards": [{"use": "mine/bright"}],
        "optimizer": {"use": "policy-gradient"},
        "train": {"iterations": 1},
        "evaluate": {"prompts": 2, "per_prompt": 2, "show": 0, "evaluators": [{"use": "base-distance"}]},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run, _ = api.run(str(root / "recipe.yaml"), folder=root / "run", plugin_files=(plugin,))
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    state, generator = checkpoint.load(newest), torch.Generator().manual_seed(5)
    for part in state["trainable"].values():
        for value in part.values():
            value.add_(torch.randn(value.shape, generator=generator), alpha=scale)
    checkpoint.save(newest, state)
    return Made(run, root / "base", call)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Classifier-free guidance, attention and convolutions, averaged weights, a scale that is no whole number."""
    adapter = {"rank": 2, "alpha": 3, "targets": ATTENTION + CONVOLUTIONS, "ema": 0.5}
    return made(tmp_path_factory.mktemp("sd"), "sd", tiny.stable_diffusion(), adapter)


@pytest.fixture(scope="module")
def lcm(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("lcm"), "lcm", tiny.latent_consistency(), {"rank": 4, "alpha": 8, "targets": ATTENTION})


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("sd3"), "sd3", FAMILIES["sd3"].build(), {"rank": 2, "alpha": 4, "targets": ATTENTION})


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("full"), "lcm", tiny.latent_consistency(), {"kind": "full"}, scale=0.02)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = ["train.iterations=1", "rollout.samples=32", "rollout.batch=32", "evaluate.per_prompt=8", "train.lr=0.01"]
    return api.run(
        "toy/ddpo", [*small, "adapter.kind=lora", "adapter.targets=['0','2','4']"], folder=tmp_path_factory.mktemp("toy") / "run"
    )[0]


def contents(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- what plain diffusers makes of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd", "lcm", "sd3"])
def test_a_lora_loads_into_the_plain_pipeline_and_gives_equal_samples(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run: Made = request.getfixturevalue(name)
    done = export(run.run, tmp_path / "out", "lora", weights="last")
    assert done.found.equal and done.found.forwards == STEPS and done.moved.relative > 0.05
    pipe = run.plain()
    before = run.sample(pipe)
    pipe.load_lora_weights(str(tmp_path / "out"))
    after = run.sample(pipe)
    assert torch.equal(after, run.trained())
    assert (after - before).abs().max() > 0.05, "and the base model does not give them"
    assert not any("lora" in name for part in ("text_encoder", "vae") for name, _ in getattr(pipe, part).named_parameters())


def test_the_adapter_file_says_rank_alpha_and_targets(sd: Made, tmp_path: Path) -> None:
    export(sd.run, tmp_path / "out", "lora")
    with safe_open(tmp_path / "out/pytorch_lora_weights.safetensors", "pt") as file:
        told, keys = json.loads(file.metadata()["lora_adapter_metadata"]), list(file.keys())
        convolution = file.get_tensor("unet.down_blocks.0.resnets.0.conv1.lora_A.weight")
    assert (told["unet.r"], told["unet.lora_alpha"], sorted(told["unet.target_modules"])) == (2, 3.0, sorted(ATTENTION + CONVOLUTIONS))
    assert all(key.startswith("unet.") and key.endswith(("lora_A.weight", "lora_B.weight")) for key in keys)
    assert convolution.shape == (2, 8, 3, 3) and convolution.dtype == torch.float32


def test_averaged_weights_are_taken_unless_the_last_are_asked_for(sd: Made, lcm: Made, tmp_path: Path) -> None:
    found = {}
    for name, weights in {"default": None, "ema": "ema", "last": "last"}.items():
        assert export(sd.run, tmp_path / name, "lora", weights=weights).weights == ("last" if name == "last" else "ema")
        pipe = sd.plain()
        pipe.load_lora_weights(str(tmp_path / name))
        found[name] = sd.sample(pipe)
    assert torch.equal(found["default"], found["ema"]) and torch.equal(found["ema"], sd.trained("ema"))
    assert torch.equal(found["last"], sd.trained("last")) and not torch.allclose(found["ema"], found["last"], atol=1e-2)
    with pytest.raises(ExportError, match="keeps no averaged weights"):
        export(lcm.run, tmp_path / "none", weights="ema")


@pytest.mark.parametrize("name", ["sd", "sd3", "full"])
def test_a_merged_pipeline_needs_no_adapter(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run: Made = request.getfixturevalue(name)
    done = export(run.run, tmp_path / "out", "merged", weights="last")
    assert done.moved.relative > 0 and done.found.relative < 1e-5
    pipe = run.plain(tmp_path / "out")
    network = getattr(pipe, "unet", None) or pipe.transformer
    assert not any("lora" in key or "base_layer" in key for key in network.state_dict())
    torch.testing.assert_close(run.sample(pipe), run.trained(), rtol=1e-3, atol=2e-4)
    told = "".join((tmp_path / "out" / file).read_text() for file in contents(tmp_path / "out") if file.endswith((".json", ".md", ".yaml")))
    assert str(run.base) not in told and str(run.base.parent) not in told


def test_full_fine_tuning_is_merged_to_the_bit(full: Made, tmp_path: Path) -> None:
    export(full.run, tmp_path / "out", "merged")
    learned = api.trained(full.run).trainable.parameters
    stored = load_file(tmp_path / "out/unet/diffusion_pytorch_model.safetensors")
    assert stored.keys() == learned.keys() and all(torch.equal(stored[key], learned[key]) for key in stored)


def test_kohya_names_load_in_diffusers_and_give_equal_samples(sd: Made, tmp_path: Path) -> None:
    done = export(sd.run, tmp_path / "out", "kohya", weights="last")
    assert done.found.relative < 1e-6
    stored = load_file(tmp_path / "out/lora_kohya.safetensors")
    layer = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0"
    assert stored[f"{layer}.lora_down.weight"].shape[0] == 2 and stored[f"{layer}.alpha"].item() == 3.0
    assert stored["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"].shape == (2, 8, 3, 3)
    assert stored["lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight"].shape == (8, 2, 1, 1)
    assert {key.rpartition(".lora_")[2] or key for key in stored if not key.endswith(".alpha")} == {"down.weight", "up.weight"}
    pipe = sd.plain()
    pipe.load_lora_weights(str(tmp_path / "out"), weight_name="lora_kohya.safetensors")
    torch.testing.assert_close(sd.sample(pipe), sd.trained(), rtol=1e-4, atol=1e-4)


def test_networks_without_a_lora_loader_go_through_peft(tmp_path: Path) -> None:
    import peft

    adapter = {"rank": 2, "alpha": 3, "targets": ATTENTION}
    run = made(tmp_path, "pixart", FAMILIES["pixart-sigma"].build(), adapter)
    with pytest.raises(ExportError, match=r"no adapter into the PixArtTransformer2DModel of a PixArtSigmaPipeline; .*--format peft"):
        export(run.run, tmp_path / "none", "lora")
    assert export(run.run, tmp_path / "out", "peft").found.equal
    pipe = run.plain()
    peft.PeftModel.from_pretrained(pipe.transformer, str(tmp_path / "out"))
    torch.testing.assert_close(run.sample(pipe), run.trained(), rtol=1e-4, atol=1e-4)


def test_two_denoisers_are_exported_together(tmp_path: Path) -> None:
    run = made(tmp_path / "wan", "wan", FAMILIES["wan-2.2"].build(), {"rank": 2, "alpha": 3, "targets": ATTENTION})
    done = export(run.run, tmp_path / "out", "lora")
    assert done.found.equal and {"pytorch_lora_weights.safetensors", "transformer_2_lora_weights.safetensors"} <= contents(tmp_path / "out")
    pipe = run.plain()
    pipe.load_lora_weights(str(tmp_path / "out"))
    first = run.sample(pipe)
    pipe.transformer_2.load_lora_adapter(str(tmp_path / "out"), weight_name="transformer_2_lora_weights.safetensors", prefix=None)
    assert torch.equal(run.sample(pipe), run.trained()) and not torch.allclose(first, run.trained(), atol=1e-2)
    assert 'pipe.transformer_2.load_lora_adapter("this/folder", weight_name=' in (tmp_path / "out/README.md").read_text()
    assert export(run.run, tmp_path / "peft", "peft").found.equal
    assert {"transformer/adapter_config.json", "transformer_2/adapter_model.safetensors"} <= contents(tmp_path / "peft")


@pytest.mark.parametrize(
    ("format", "dtype", "file"),
    [
        ("lora", "bfloat16", "pytorch_lora_weights.safetensors"),
        ("kohya", "float16", "lora_kohya.safetensors"),
        ("merged", "bfloat16", "unet/diffusion_pytorch_model.safetensors"),
    ],
)
def test_half_precision_is_stored_and_its_rounding_told(format: str, dtype: str, file: str, lcm: Made, tmp_path: Path) -> None:
    done = export(lcm.run, tmp_path / "out", format, dtype=dtype)
    kinds = {value.dtype for key, value in load_file(tmp_path / "out" / file).items() if not key.endswith(".alpha")}
    assert kinds == {getattr(torch, dtype)}
    assert 0 < done.found.relative < 0.1 < done.moved.relative
    assert f"{done.found.forward:.2g} in {STEPS} forwards" in (tmp_path / "out/README.md").read_text()


def test_into_a_half_precision_network_diffusers_rounds_an_adapter_and_peft_does_not(tmp_path: Path) -> None:
    adapter = {"rank": 2, "alpha": 3, "targets": ATTENTION}
    run = made(tmp_path / "half", "lcm", tiny.latent_consistency(), adapter, dtype="bfloat16")
    found = {format: export(run.run, tmp_path / format, format) for format in ("lora", "peft", "merged")}
    assert found["peft"].found.equal
    for format in ("lora", "merged"):
        assert 0 < found[format].found.relative < 0.1 < found[format].moved.relative
    pipe = run.plain(dtype=torch.bfloat16)
    pipe.load_lora_weights(str(tmp_path / "lora"))
    assert {weight.dtype for name, weight in pipe.unet.named_parameters() if "lora_" in name} == {torch.bfloat16}
    stored = load_file(tmp_path / "merged/unet/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}, "the base model's, if not asked otherwise"


def test_any_policy_gives_its_weights(toy: Path, tmp_path: Path) -> None:
    done = export(toy, tmp_path / "out", "weights")
    assert done.found.relative < 1e-5 and done.moved.relative > 0
    job, base = api.trained(toy), api.base("toy/ddpo").policy.trainable()
    plain = type(base)(base.get_buffer("centres"), base.spread)
    plain.load_state_dict(load_file(tmp_path / "out/model.safetensors"))
    x, level = torch.randn(5, 2), torch.full((5,), 0.6)
    torch.testing.assert_close(plain(x, level, level), job.policy.trainable()(x, level, level), rtol=1e-4, atol=1e-5)


# --- the check can fail -----------------------------------------------------------------------------------------------------------


def test_a_wrong_scale_is_found_and_nothing_is_left(lcm: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = lora.metadata
    monkeypatch.setattr(lora, "metadata", lambda found: {**right(found), "lora_alpha": 9.0})
    with pytest.raises(ExportError, match=r"differs from the trained policy: .* expected 0 \(bit-equal\). Nothing was written"):
        export(lcm.run, tmp_path / "out", "lora")
    assert list(tmp_path.iterdir()) == []


def test_a_lost_layer_is_found_even_where_it_does_nothing(lcm: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kohya.renamed
    gone = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q."
    monkeypatch.setattr(kohya, "renamed", lambda *a: {key: value for key, value in right(*a).items() if not key.startswith(gone)})
    monkeypatch.setattr(compare, "judge", lambda *a: None)
    with pytest.raises(
        ExportError, match=r"differs in 1 layers, such as 'down_blocks\.0\.attentions\.0\.transformer_blocks\.0\.attn1\.to_q'"
    ):
        export(lcm.run, tmp_path / "out", "kohya")


def test_what_does_not_load_is_an_error_with_the_reason(lcm: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("conv_in")

    monkeypatch.setattr(lora.LoraFile, "load", fail)
    with pytest.raises(ExportError, match="written as 'lora' does not load again: KeyError: 'conv_in'"):
        export(lcm.run, tmp_path / "out", "lora")
    assert not (tmp_path / "out").exists()


def test_judge_knows_precision_and_numbers_that_are_none() -> None:
    small, rounded, broken = (compare.Difference(e, e, e, 4) for e in (1e-5, 0.05, float("inf")))
    single, brain, half = (torch.finfo(kind).eps for kind in (torch.float32, torch.bfloat16, torch.float16))
    compare.judge(compare.Difference(0, 0, 0, 4), True, single, "lora")
    compare.judge(small, False, single, "merged")
    compare.judge(rounded, False, brain, "merged")
    for found, exact, unit in ((small, True, single), (rounded, False, single), (rounded, False, half), (broken, False, brain)):
        with pytest.raises(ExportError, match="differs"):
            compare.judge(found, exact, unit, "merged")
    assert "rounding is 50%" in compare.remark(rounded, compare.Difference(1, 0.1, 1, 4))
    assert "says nothing" in compare.remark(small, compare.Difference(0, 0, 0, 4)) and compare.remark(small, rounded) == ""


# --- the card ---------------------------------------------------------------------------------------------------------------------


def test_the_card_tells_what_the_run_measured(sd: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(sd.run, out, "lora", license="apache-2.0")
    card = ModelCard.load(out / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["license"], data["pipeline_tag"]) == ("diffusers", "apache-2.0", "text-to-image")
    assert {"tropism", "lora", "policy-gradient", "StableDiffusionPipeline"} <= set(data["tags"]) and "base_model" not in data
    summary = json.loads((sd.run / "summary.json").read_text())
    before, after = (summary["metrics"]["mine/bright"][end] for end in ("before", "after"))
    row = next(line for line in card.text.splitlines() if line.startswith("| mine/bright |"))
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", row)[:6]]
    for shown, value in zip(numbers, (*before, *after), strict=True):
        assert shown == pytest.approx(value, rel=6e-3)
    assert yaml.safe_load((out / "recipe.yaml").read_text())["policy"]["source"] == "base", "a path is cut to its last part"
    assert yaml.safe_load(card.text.partition("```yaml\n")[2].partition("```")[0])["adapter"]["ema"] == 0.5
    for part in (
        "exponential average, decay 0.5",
        "seed: 0",
        "LoRA, rank 2, alpha 3.00",
        "0, bit-equal in 4 forwards",
        "2010.02502",
        "2106.09685",
    ):
        assert part in card.text, part
    assert str(sd.base.parent) not in card.content
    curves = (out / "curves.svg").read_text()
    assert "curves.svg" in card.text and curves.count("<circle") == 4 and "mine/bright" in curves


def test_the_card_says_when_its_numbers_are_of_other_weights(sd: Made, tmp_path: Path) -> None:
    export(sd.run, tmp_path / "out", "lora", weights="last")
    text = (tmp_path / "out/README.md").read_text()
    assert "measured on the averaged weights; this folder holds the newest ones" in text and "weights: of the last iteration" in text
    assert "license_name: see-base-model" in text


@pytest.mark.parametrize("format", ["lora", "kohya", "merged", "weights"])
def test_the_python_of_the_card_runs_and_gives_the_trained_samples(format: str, lcm: Made, tmp_path: Path) -> None:
    export(lcm.run, tmp_path / "out", format)
    code = (tmp_path / "out/README.md").read_text().partition("```python\n")[2].partition("```")[0]
    code = code.replace("this/folder", str(tmp_path / "out")).replace("folder/of/base", str(lcm.base))
    assert f"num_inference_steps={STEPS}, guidance_scale=3.0" in code or format == "weights"
    names: dict[str, Any] = {}
    if format == "weights":
        recipe = tmp_path / "out/recipe.yaml"
        recipe.write_text(recipe.read_text().replace("source: base", f"source: {lcm.base}").replace("mine/bright", "toy/near"))
    exec(compile(code, "card", "exec"), names)
    pipe = names["policy"].pipe if format == "weights" else names["pipe"]
    torch.testing.assert_close(lcm.sample(pipe), lcm.trained(), rtol=1e-4, atol=1e-4)


def test_a_hub_name_is_the_base_model(lcm: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionPipeline, "name_or_path", "owner/some-model")
    export(lcm.run, tmp_path / "out", "merged")
    card = ModelCard.load(tmp_path / "out/README.md")
    assert (card.data.base_model, card.data.to_dict()["base_model_relation"]) == ("owner/some-model", "finetune")
    assert "not on the Hub" not in card.text


# --- refusals -----------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_told_with_what_can(toy: Path, full: Made, sd3: Made, lcm: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ExportError, match=r"'toy/mixture' is a ToyPolicy, no diffusers pipeline; .* --format weights"):
        export(toy, out)
    with pytest.raises(ExportError, match=r"trained all weights .* --format merged"):
        export(full.run, out, "lora")
    with pytest.raises(ExportError, match="U-Nets of Stable Diffusion 1, 2 and XL; this is the transformer of a StableDiffusion3Pipeline"):
        export(sd3.run, out, "kohya")
    with pytest.raises(ExportError, match=r"unknown format 'khoya' \(did you mean 'kohya'\?\); known: lora, kohya, peft, merged, weights"):
        export(lcm.run, out, "khoya")
    with pytest.raises(ExportError, match=r"unknown dtype 'bfloat' \(did you mean 'bfloat16'\?\)"):
        export(lcm.run, out, dtype="bfloat")
    with pytest.raises(ExportError, match="licence 'Apache 2': expected an identifier"):
        export(lcm.run, out, license="Apache 2")
    bare = tmp_path / "bare"
    shutil.copytree(lcm.run, bare, ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        export(bare, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare"], "nothing is left of a refused export"
    out.mkdir()
    (out / "precious").write_text("mine")
    with pytest.raises(ExportError, match="not an empty folder"):
        export(lcm.run, out)
    assert contents(out) == {"precious"}


def test_the_function_stays_a_function_once_its_parts_are_imported() -> None:
    assert "tropism.exports.compare" in sys.modules and tropism.export is export


# --- to the Hub -----------------------------------------------------------------------------------------------------------------------


class Hub:
    """A Hub that is a folder: what is uploaded is copied, by the patterns as the real client matches them."""

    def __init__(self, root: Path) -> None:
        self.root, self.private = root, None

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.private = private
        (self.root / repo_id).mkdir(parents=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str, allow_patterns: list[str]) -> None:
        for file in contents(Path(folder_path)):
            if any(fnmatchcase(file, pattern) for pattern in allow_patterns):
                target = self.root / repo_id / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(folder_path) / file, target)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder in the shape of an export."""
    out = tmp_path / "export"
    (out / "tokenizer").mkdir(parents=True)
    (out / "README.md").write_text("---\nlicense: mit\n---\n# a card\n")
    (out / "recipe.yaml").write_text("name: a/b\n")
    (out / "tokenizer/merges.txt").write_text("#version: 0.2\na b\n")
    (out / "tokenizer/tokenizer.json").write_text("{}")
    save_file({"a": torch.zeros(2)}, out / "pytorch_lora_weights.safetensors")
    return out


@pytest.mark.parametrize("private", [True, False])
def test_a_push_uploads_the_export_as_it_is(private: bool, exported: Path, tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub")
    names = push(exported, "me/mine", private=private, api=hub)
    assert hub.private is private and set(names) == contents(exported) == contents(tmp_path / "hub/me/mine")


def test_a_real_export_passes(sd3: Made, tmp_path: Path) -> None:
    export(sd3.run, tmp_path / "out", "merged", weights="last")
    names = push(tmp_path / "out", "me/mine", api=Hub(tmp_path / "hub"))
    assert {"README.md", "model_index.json", "transformer/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"} <= set(names)
    pipe = sd3.plain(tmp_path / "hub/me/mine")
    torch.testing.assert_close(sd3.sample(pipe), sd3.trained(), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("model.ckpt", "x", "not one of .json, .md"),
        ("unet/model.bin", "x", "not one of"),
        ("merges.txt", "x", "not one of"),
        ("run.py", "print()", "not one of"),
        (".env", "HF_TOKEN=1", "hidden file"),
        (".git/config.json", "{}", "hidden file"),
        ("my_token.json", "{}", "that of a secret"),
        ("credentials.json", "{}", "that of a secret"),
        ("state.safetensors", "x", "part of a run or of a checkpoint"),
        ("optimizer.safetensors", "x", "part of a run or of a checkpoint"),
        ("checkpoints/step-00000001/a.json", "{}", "part of a run or of a checkpoint"),
        ("notes.md", "line\nkey: hf_" + "A1" * 17, "line 2 looks like a secret"),
        ("recipe2.yaml", "-----BEGIN OPENSSH PRIVATE KEY-----", "line 1 looks like a secret"),
        ("broken.json", "{", "not JSON"),
    ],
)
def test_what_has_no_place_on_the_hub_stops_the_upload(name: str, text: str, reason: str, exported: Path, tmp_path: Path) -> None:
    (exported / name).parent.mkdir(parents=True, exist_ok=True)
    (exported / name).write_text(text)
    with pytest.raises(ExportError, match=f"nothing was uploaded.*\n  {re.escape(name)}: .*{re.escape(reason)}") as refused:
        push(exported, "me/mine", api=Hub(tmp_path / "hub"))
    assert "hf_A1" not in str(refused.value) and not (tmp_path / "hub").exists()


def test_links_runs_and_bad_names_are_refused(exported: Path, lcm: Made, tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub")
    for repo in ("mine", "me/", "me/mine/more", "https://huggingface.co/me/mine"):
        with pytest.raises(ExportError, match="expected owner/name"):
            push(exported, repo, api=hub)
    for folder in (lcm.run, tmp_path / "absent"):
        with pytest.raises(ExportError, match=r"is no export\n  found: .*\n  write one with: tropism export RUN"):
            push(folder, "me/mine", api=hub)
    (exported / "link.json").symlink_to(exported / "README.md")
    with pytest.raises(ExportError, match=r"link\.json: a link"):
        push(exported, "me/mine", api=hub)
    assert not (tmp_path / "hub").exists()


def test_without_a_token_nothing_is_tried(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("the Hub was asked"))
    with pytest.raises(ExportError, match=r"no Hugging Face token .* 'hf auth login'"):
        push(exported, "me/mine")


def test_the_hubs_refusal_is_told_without_the_token(exported: Path, tmp_path: Path) -> None:
    class Refusing(Hub):
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            raise PermissionError(f"403 for {'hf_' + 'Z9' * 17}\nmore")

    with pytest.raises(ExportError, match=r"me/mine was not uploaded: PermissionError: 403 for \[hidden\]\n") as refused:
        push(exported, "me/mine", api=Refusing(tmp_path / "hub"))
    assert "Z9Z9" not in str(refused.value)


# --- the commands ---------------------------------------------------------------------------------------------------------------------


def test_export_and_push_from_the_command_line(lcm: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tropism(*args: object) -> Any:
        return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="tropism")

    out = tmp_path / "out"
    result = tropism("export", lcm.run, out, "--license", "mit")
    assert result.exit_code == 0, result.output
    assert "loaded back  largest difference 0, bit-equal in 4 forwards and in the samples" in result.output and str(out) in result.output
    assert contents(out) == {"README.md", "recipe.yaml", "curves.svg", "pytorch_lora_weights.safetensors"}
    again = tropism("export", lcm.run, out)
    assert again.exit_code == 1 and "not an empty folder" in again.stderr and "Traceback" not in again.output
    monkeypatch.setattr("tropism.exports.push._signed_in", lambda: Hub(tmp_path / "hub"))
    pushed = tropism("push", out, "me/mine", "--private")
    assert pushed.exit_code == 0 and pushed.output.splitlines()[-1] == "https://huggingface.co/me/mine"
    assert contents(tmp_path / "hub/me/mine") == contents(out)
