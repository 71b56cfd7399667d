"""Gradient checkpointing computes the same gradients with the blocks' forwards run twice, and the first ratio stays 1."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import DDIM
from tropism.errors import PolicyError
from tropism.optimizers.base import StepBatch, batches
from tropism.optimizers.policy_gradient import PolicyGradient
from tropism.policies.adapters import Lora, Trainable
from tropism.policies.pipeline import capture
from tropism.scale.engine import Engine
from tropism.testing import condition
from tropism.toy import ToyPolicy

ITEMS = [{"prompt": "a red apple"}, {"prompt": "a dog"}]


def learned(checkpointing: bool) -> tuple[dict[str, torch.Tensor], float, int]:
    """(gradients of a first update, the first ratio's error, forwards of one block in it)."""
    policy = capture(tiny.stable_diffusion(), guidance_scale=3.0)
    network = policy.trainable()
    if checkpointing:
        Engine("cpu").checkpoint(network)
    torch.manual_seed(0)
    parameters = Trainable(network, Lora(rank=2, targets=("to_q", "to_v"))).parameters
    for parameter in parameters.values():  # an adapter starts at zero, where half of its gradients are
        parameter.data.normal_(0, 0.1)
    rollout = collect(policy, condition(policy, ITEMS), DDIM(1.0), 3)
    rollout.advantage = torch.tensor([1.0, -0.5])
    calls: list[int] = []
    network.up_blocks[-1].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    error = 0.0
    for batch in batches(rollout, DDIM(1.0), 1, 2)[0]:
        assert isinstance(batch, StepBatch)
        loss, numbers = PolicyGradient().loss(policy, batch)
        (loss * batch.share).backward()
        error = max(error, numbers["ratio_error"].item())
    return {name: parameter.grad for name, parameter in parameters.items()}, error, len(calls)


def test_gradients_are_the_same_and_the_first_ratio_is_one():
    (whole, _, once), (again, error, twice) = learned(False), learned(True)
    assert whole.keys() == again.keys() and all(gradient.abs().max() > 0 for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-8)
    assert error == 0
    assert twice == 2 * once, "a block's forward is run again in the backward pass"


def test_a_network_that_cannot_is_refused():
    with pytest.raises(
        PolicyError, match=r"train\.checkpointing: Correction cannot: it has no enable_gradient_checkpointing.*leave it out"
    ):
        Engine("cpu").checkpoint(ToyPolicy().trainable())
