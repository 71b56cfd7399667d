"""The shipped generator keeps the contract of a policy, and makes what the picture shows."""

from __future__ import annotations

import pytest
import torch

from tropism.diffusion.flow_samplers import FlowSde, Ode
from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import Sampler
from tropism.errors import PolicyError
from tropism.policies.adapters import Lora, Trainable
from tropism.testing import PolicyContract, condition
from tropism.types import Item
from tropism_3d import furniture
from tropism_3d.depth import depth
from tropism_3d.fields import occupancy
from tropism_3d.generators.furniture_flow import WEIGHTS, FurnitureFlow
from tropism_3d.rewards.likeness import Likeness


class TestFurnitureFlow(PolicyContract):
    @pytest.fixture
    def policy(self) -> FurnitureFlow:
        return FurnitureFlow()

    @pytest.fixture
    def items(self) -> list[Item]:
        return furniture.Furniture().heldout[:3]

    @pytest.fixture
    def sampler(self) -> Sampler:
        return FlowSde()


def test_the_weights_are_small():
    assert WEIGHTS.stat().st_size <= 12 * 2**20


def test_shapes_are_more_like_their_own_object_than_like_another():
    policy, items = FurnitureFlow(), furniture.Furniture().heldout[:16]
    with torch.no_grad():
        media = policy.decode(collect(policy, condition(policy, items), Ode(), 12).x0)["occupancy"]
    columns = [[item[key] for item in items] for key in ("object", "view")]
    own = Likeness()(media, *columns).mean()
    other = Likeness()(media.roll(1, 0), *columns).mean()
    assert own > 0.6 and own > other + 0.2


def test_guidance_is_a_mixture_of_two_predictions():
    items = furniture.Furniture().heldout[:2]
    plain, guided = FurnitureFlow(1.0), FurnitureFlow(3.0)
    cond, x = plain.encode(items), torch.randn(2, 512)
    level = plain.schedule.draw(torch.tensor([0.3, 0.8]))
    with torch.no_grad():
        seen = plain.predict(x, level, cond)
        blind = plain.predict(x, level, {"seen": plain.eye.nothing.expand(2, -1)})
        torch.testing.assert_close(guided.predict(x, level, cond), 3 * seen - 2 * blind, atol=1e-4, rtol=1e-4)


def test_a_picture_of_ones_own_is_the_same_condition():
    policy, item = FurnitureFlow(), furniture.Furniture().heldout[0]
    picture = depth(furniture.field([item["object"]], item["view"]))[0]
    assert torch.equal(policy.encode([item])["seen"], policy.encode([{"depth": picture.tolist()}])["seen"])
    with pytest.raises(PolicyError, match=r"\[1, 32, 32\]"):
        policy.encode([{"depth": picture[:1].tolist()}])
    with pytest.raises(PolicyError, match="neither 'object'"):
        policy.encode([{"prompt": "a chair"}])


def test_embedding_is_the_inverse_of_decoding():
    policy = FurnitureFlow()
    items = furniture.Furniture().train[:12]
    real = torch.cat([occupancy(furniture.field([item["object"]], item["view"])) for item in items]) > 0.5
    again = policy.decode(policy.embed({"occupancy": real.float()}))["occupancy"] > 0.5
    overlap = (again & real).flatten(1).sum(1) / (again | real).flatten(1).sum(1)
    assert overlap.mean() > 0.7 and overlap.min() > 0.4


def test_adapters_reach_every_block():
    policy = FurnitureFlow()
    trainable = Trainable(policy.trainable(), Lora(4, 8.0, ("up", "down", "modulate")))
    assert len(trainable.parameters) == 2 * 3 * 6
