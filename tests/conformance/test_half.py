"""Pipelines in half precision: the same guidance is learned as in float32, with a replay error of the type's own rounding."""

from __future__ import annotations

import pytest
import torch

from tests.conformance import conform
from tests.conformance.families import FAMILIES
from tropism.policies import guidance

CASES = {"qwen-image": ([4.0, -3.0], "vector"), "wan-2.1": ([5.0, -4.0], ""), "lumina2": ([-4.0, 3.0], "vector"), "sd3": ([-6.0, 7.0], "")}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_guidance_is_what_was_typed_and_the_replay_error_is_rounding(name, dtype):
    family = FAMILIES[name]
    pipe = family.build()
    pipe.scheduler = family.parity() if family.parity is not None else pipe.scheduler
    policy = conform.capture(pipe.to(dtype), **family.call)
    weights, size = CASES[name]
    found = policy.phases[0].guidance
    assert found.weights.tolist() == weights
    assert found.size == size
    assert policy.replay_error < torch.finfo(dtype).eps


def test_what_is_blurred_by_rounding_is_not_taken_for_another_rule():
    """Two outputs whose sum is given the first one's norm, all in bfloat16: constant weights are only nearly right."""
    draw = torch.Generator().manual_seed(0)
    parts = [[torch.randn(2, 16, 8, generator=draw).bfloat16() for _ in range(2)] for _ in range(4)]
    mixed = [4 * a - 3 * b for a, b in parts]
    targets = [m * (a.norm(dim=-1, keepdim=True) / m.norm(dim=-1, keepdim=True)) for m, (a, _) in zip(mixed, parts, strict=True)]
    found = guidance.learn(parts, targets, [torch.tensor(float(t)) for t in range(4)], guidance.fit_limit(torch.bfloat16))
    assert (found.size, found.like, found.weights.tolist()) == ("vector", 0, [4.0, -3.0])


def test_the_limit_of_a_replay_grows_with_the_rounding_of_its_type():
    weights = torch.tensor([8.0, -7.0])
    assert guidance.tolerance(weights, torch.float32) == guidance.TOLERANCE
    assert guidance.tolerance(weights, torch.float16) == pytest.approx(0.5 * 2**-10 * 15)
    assert guidance.tolerance(weights, torch.bfloat16) == pytest.approx(0.5 * 2**-7 * 15)
