"""Shap-E on tiny weights: what is decoded is what diffusers' own decode_to_mesh would march through."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conformance.other import shap_e
from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.rollout import collect
from tropism.errors import PolicyError
from tropism.policies.pipeline import capture
from tropism.testing import condition
from tropism_3d.generators.shap_e import ShapE, from_source
from tropism_3d.shapes import from_occupancy

ITEMS = [{"prompt": "a chair"}, {"prompt": "a table"}]


@pytest.fixture(scope="module")
def policy() -> ShapE:
    return ShapE(capture(shap_e(), frame_size=32), grid=10)


@pytest.fixture(scope="module")
def x0(policy: ShapE) -> torch.Tensor:
    with torch.no_grad():
        return collect(policy, condition(policy, ITEMS), Ode(), 3).x0


def test_the_grid_is_the_one_that_diffusers_marches_through(policy: ShapE, x0: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    renderer, seen = policy.policy.pipe.shap_e_renderer, []

    def record(field: torch.Tensor, *_: torch.Tensor) -> None:
        seen.append(field)
        raise InterruptedError

    kept = {name: value.clone() for name, value in renderer.mlp.state_dict().items()}
    found = policy.distance(x0)
    assert all(torch.equal(value, kept[name]) for name, value in renderer.mlp.state_dict().items()), "the renderer was written into"
    monkeypatch.setattr(renderer.mesh_decoder, "forward", record)
    for row in range(len(x0)):
        with pytest.raises(InterruptedError):
            renderer.decode_to_mesh(x0[row : row + 1], "cpu", grid_size=10)
    torch.testing.assert_close(found, torch.stack([field[1:-1, 1:-1, 1:-1] for field in seen]), atol=1e-4, rtol=1e-4)
    solid = policy.decode(x0)["occupancy"] > 0.5
    assert torch.equal(solid, found > 0) and 0 < solid.float().mean() < 1


def test_decoding_has_a_gradient(policy: ShapE, x0: torch.Tensor):
    leaf = x0.clone().requires_grad_(True)
    policy.distance(leaf).sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().amax((1, 2)).min() > 0


def test_an_empty_surface_is_a_status(policy: ShapE, x0: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(policy, "distance", lambda x0: -torch.ones(len(x0), 10, 10, 10))
    assert [shape.status for shape in from_occupancy(policy.decode(x0)["occupancy"])] == ["empty", "empty"]


def test_a_pipeline_without_a_renderer_is_refused(policy: ShapE):
    with pytest.raises(PolicyError, match="grid: 4"):
        ShapE(policy.policy, grid=4)
    with pytest.raises(PolicyError, match="cannot load"):
        from_source("no/such/folder")


def test_it_loads_from_a_folder(tmp_path: Path):
    shap_e().save_pretrained(tmp_path / "tiny")
    made = from_source(str(tmp_path / "tiny"), grid=8)
    assert made.emits == {"occupancy"} and made.schedule.parametrization == "sample"
