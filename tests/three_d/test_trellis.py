"""The adapter of TRELLIS' first stage, on a stand-in for its checkout that the test writes: the same files, calls and conventions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tropism import api
from tropism.diffusion.flow_samplers import FlowSde
from tropism.diffusion.noising import noised
from tropism.diffusion.samplers import Sampler
from tropism.errors import PolicyError
from tropism.optimizers.denoising import residual
from tropism.testing import PolicyContract
from tropism.types import Item, Level
from tropism_3d.generators.trellis import TrellisStructure

FLOW = """
import torch
from ..modules.parts import attend

class SparseStructureFlowModel(torch.nn.Module):
    def __init__(self, resolution, in_channels, cond_channels, use_fp16=True):
        super().__init__()
        assert not use_fp16
        self.resolution, self.in_channels = resolution, in_channels
        self.to_qkv = torch.nn.Linear(in_channels, 3 * in_channels)
        self.to_q = torch.nn.Linear(in_channels, in_channels)
        self.to_kv = torch.nn.Linear(cond_channels, 2 * in_channels)
        self.to_out = torch.nn.Linear(in_channels, in_channels)

    def forward(self, x, t, cond):
        h = x.flatten(2).transpose(1, 2)
        h = h + attend(*self.to_qkv(h).chunk(3, -1))
        h = h + attend(self.to_q(h), *self.to_kv(cond).chunk(2, -1)) + t[:, None, None] / 1000
        return self.to_out(h).transpose(1, 2).reshape(x.shape)
"""
DECODER = """
import torch

class SparseStructureDecoder(torch.nn.Module):
    def __init__(self, latent_channels, use_fp16=True):
        super().__init__()
        self.up = torch.nn.ConvTranspose3d(latent_channels, 1, 2, 2)

    def forward(self, x):
        return self.up(x)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("trellis")
    files = {
        "trellis/__init__.py": "raise ImportError('spconv')",
        "trellis/models/__init__.py": "raise ImportError('spconv')",
        "trellis/modules/parts.py": "from torch.nn.functional import scaled_dot_product_attention as attend\n",
        "trellis/models/sparse_structure_flow.py": FLOW,
        "trellis/models/sparse_structure_vae.py": DECODER,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "weights" / "ckpts").mkdir(parents=True)
    models = {"sparse_structure_flow_model": "ckpts/flow", "sparse_structure_decoder": "ckpts/dec"}
    sampler = {"params": {"steps": 25, "rescale_t": 3.0}}
    (root / "weights" / "pipeline.json").write_text(json.dumps({"args": {"models": models, "sparse_structure_sampler": sampler}}))
    flow = {"name": "SparseStructureFlowModel", "args": {"resolution": 4, "in_channels": 3, "cond_channels": 5, "use_fp16": True}}
    (root / "weights/ckpts/flow.json").write_text(json.dumps(flow))
    (root / "weights/ckpts/dec.json").write_text(json.dumps({"name": "SparseStructureDecoder", "args": {"latent_channels": 3}}))
    generator = torch.Generator().manual_seed(0)
    layers = {"to_qkv": (9, 3), "to_q": (3, 3), "to_kv": (6, 5), "to_out": (3, 3)}
    state = {f"{name}.weight": torch.randn(shape, generator=generator).half() for name, shape in layers.items()}
    state |= {f"{name}.bias": torch.randn(shape[0], generator=generator).half() for name, shape in layers.items()}
    save_file(state, root / "weights/ckpts/flow.safetensors")
    save_file(
        {"up.weight": torch.randn(3, 1, 2, 2, 2, generator=generator), "up.bias": torch.zeros(1)}, root / "weights/ckpts/dec.safetensors"
    )
    for number in range(3):
        np.savez(root / f"{number}.npz", tokens=np.random.default_rng(number).normal(size=(7, 5)).astype(np.float32))
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "trellis"]:
        del sys.modules[name]


class TestTrellis(PolicyContract):
    @pytest.fixture
    def policy(self, checkout: Path) -> TrellisStructure:
        return TrellisStructure(str(checkout), str(checkout / "weights"))

    @pytest.fixture
    def items(self, checkout: Path) -> list[Item]:
        return [{"tokens": str(checkout / f"{number}.npz")} for number in range(3)]

    @pytest.fixture
    def sampler(self) -> Sampler:
        return FlowSde()

    def test_guidance_is_on_while_there_is_much_noise(self, policy: TrellisStructure, items: list[Item]):
        cond, x = policy.encode(items), torch.randn(3, 3, 4, 4, 4)
        sigma = torch.tensor([0.2, 0.5, 0.9])
        level = Level(1000 * sigma, 1 - sigma, sigma)
        with torch.no_grad():
            seen, blind = (policy.network(x, level.t, tokens) for tokens in (cond["tokens"], torch.zeros_like(cond["tokens"])))
            made = policy.predict(x, level, cond)
        torch.testing.assert_close(made[0], seen[0])
        torch.testing.assert_close(made[1:], 8.5 * seen[1:] - 7.5 * blind[1:], atol=1e-4, rtol=1e-4)

    def test_errors_are_those_with_the_picture_alone(self, policy: TrellisStructure, items: list[Item]):
        cond, x0 = policy.encode(items), torch.randn(3, 3, 4, 4, 4)
        with torch.no_grad():
            at = noised(policy, x0, [0, 1, 2], torch.zeros(3, dtype=torch.long), 1, 0)
            seen = policy.network(at.x, at.level.t, cond["tokens"])
            torch.testing.assert_close(at.predicted(policy, cond)[1], seen, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(residual(policy, at, cond), seen - (at.noise - at.x0), atol=1e-4, rtol=1e-4)

    def test_levels_are_the_authors(self, policy: TrellisStructure):
        told = policy.schedule.levels(4)
        torch.testing.assert_close(told.sigma, torch.tensor([1, 0.9, 0.75, 0.5, 0]))  # 3 u / (1 + 2 u)
        torch.testing.assert_close(told.t, 1000 * told.sigma)
        drawn = policy.schedule.draw((torch.arange(10_000) + 0.5) / 10_000)
        logit = torch.logit(drawn.sigma.double())
        assert logit.mean().item() == pytest.approx(1, abs=0.01) and logit.std().item() == pytest.approx(1, abs=0.01)
        torch.testing.assert_close(drawn.alpha, 1 - drawn.sigma)
        assert policy.schedule.draw(torch.tensor([0.0, 1.0])).sigma.isfinite().all()


def test_what_is_missing_is_named(checkout: Path, tmp_path: Path):
    policy = TrellisStructure(str(checkout), str(checkout / "weights"))
    with pytest.raises(PolicyError, match=r"no trellis/models/sparse_structure_flow\.py"):
        TrellisStructure(str(tmp_path), str(checkout / "weights"))
    with pytest.raises(PolicyError, match=r"expected pipeline\.json"):
        TrellisStructure(str(checkout), str(tmp_path))
    with pytest.raises(PolicyError, match="names no file of picture tokens"):
        policy.encode([{"prompt": "a chair"}])
    np.savez(tmp_path / "flat.npz", tokens=np.zeros(5))
    with pytest.raises(PolicyError, match=r"\[5\]; expected finite numbers \[T, C\]"):
        policy.encode([{"tokens": str(tmp_path / "flat.npz")}])
    (tmp_path / "pipeline.json").write_text(
        json.dumps(
            {
                "args": {
                    **json.loads((checkout / "weights/pipeline.json").read_text())["args"],
                    "sparse_structure_sampler": {"params": {"rescale_t": -1}},
                }
            }
        )
    )
    (tmp_path / "ckpts").symlink_to(checkout / "weights/ckpts")
    with pytest.raises(PolicyError, match=r"rescale_t of sparse_structure_sampler is -1\.0; expected 0\.01 to 100"):
        TrellisStructure(str(checkout), str(tmp_path))


def test_the_recipe_runs_on_the_stand_in(checkout: Path, tmp_path: Path):
    small = [f"policy.checkout={checkout}", f"policy.weights={checkout / 'weights'}"]
    small += [f"data={{use: 3d/picture-tokens, train: {checkout}}}", "adapter.rank=2"]
    small += ["train.iterations=1", "train.updates=1", "train.warmup=0", "rollout.samples=8", "rollout.batch=4", "rollout.steps=3"]
    small += ["evaluate.every=1", "evaluate.prompts=3", "evaluate.show=2", "rewards=[{use: 3d/emptiness}]", "evaluate.rewards=[]"]
    folder, status = api.run("3d/trellis-dso-dro", small, folder=tmp_path / "run")
    assert status == "finished"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {row["name"]: row["value"] for row in rows}
    assert {"eval/3d/stable-20", "eval/3d/f-score-base", "eval/base-distance"} <= set(found) and "eval/3d/f-score" not in found
    assert found["eval/base-distance"] > 0, "it has learned something"
