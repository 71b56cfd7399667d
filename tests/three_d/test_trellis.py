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

from tropism.diffusion.flow_samplers import FlowSde
from tropism.diffusion.samplers import Sampler
from tropism.errors import PolicyError
from tropism.testing import PolicyContract
from tropism.types import Item
from tropism_3d.generators.trellis import TrellisStructure

FLOW = """
import torch
from ..modules.parts import project

class SparseStructureFlowModel(torch.nn.Module):
    def __init__(self, resolution, in_channels, cond_channels, use_fp16=True):
        super().__init__()
        assert not use_fp16
        self.resolution, self.in_channels = resolution, in_channels
        self.to_out = torch.nn.Linear(in_channels, in_channels)
        self.to_kv = torch.nn.Linear(cond_channels, in_channels)

    def forward(self, x, t, cond):
        told = project(self.to_kv, cond) + t[:, None] / 1000
        return self.to_out(x.movedim(1, -1)).movedim(-1, 1) + told[:, :, None, None, None]
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
        "trellis/modules/parts.py": "def project(layer, cond):\n    return layer(cond).mean(1)\n",
        "trellis/models/sparse_structure_flow.py": FLOW,
        "trellis/models/sparse_structure_vae.py": DECODER,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "weights" / "ckpts").mkdir(parents=True)
    models = {"sparse_structure_flow_model": "ckpts/flow", "sparse_structure_decoder": "ckpts/dec"}
    (root / "weights" / "pipeline.json").write_text(json.dumps({"name": "P", "args": {"models": models}}))
    flow = {"name": "SparseStructureFlowModel", "args": {"resolution": 4, "in_channels": 3, "cond_channels": 5, "use_fp16": True}}
    (root / "weights/ckpts/flow.json").write_text(json.dumps(flow))
    (root / "weights/ckpts/dec.json").write_text(json.dumps({"name": "SparseStructureDecoder", "args": {"latent_channels": 3}}))
    generator = torch.Generator().manual_seed(0)
    shapes = {"to_out.weight": (3, 3), "to_out.bias": (3,), "to_kv.weight": (3, 5), "to_kv.bias": (3,)}
    state = {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}
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
        level = policy.schedule.draw(torch.tensor([0.2, 0.5, 0.9]))
        with torch.no_grad():
            seen, blind = (policy.network(x, level.t, tokens) for tokens in (cond["tokens"], torch.zeros_like(cond["tokens"])))
            made = policy.predict(x, level, cond)
        torch.testing.assert_close(made[0], seen[0])
        torch.testing.assert_close(made[1:], 8.5 * seen[1:] - 7.5 * blind[1:], atol=1e-4, rtol=1e-4)
        assert level.t.tolist() == pytest.approx([200, 500, 900])


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
