"""Scoring in slices gives what scoring at once gives, and no reward sees more samples than the rollout's batch."""

from __future__ import annotations

import pytest
import torch

from tropism.diffusion.samplers import DDIM
from tropism.errors import RewardError
from tropism.rewards.base import fields, score
from tropism.rewards.slices import raw_scores
from tropism.testing import scored
from tropism.toy import ToyPolicy


@pytest.fixture
def samples():
    made = scored(ToyPolicy(), [{"prompt": f"p{row}"} for row in range(7)], DDIM(1.0), 3, torch.zeros(7))
    made.media = {"points": made.x0}
    return made


def right(points):
    return points[:, 0]


def described(prompt, seed, x0):
    assert len(prompt) == len(seed) == len(x0)
    return [int(text[1:]) + number for text, number in zip(prompt, seed.tolist())]


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_slices_give_the_same_scores_as_the_whole(samples, batch):
    found = raw_scores({"right": right, "described": described}, samples, batch, torch.device("cpu"))
    given, seeds = fields(samples), samples.cond.seed.tolist()
    assert torch.equal(found["right"], score("right", right, given, seeds))
    assert torch.equal(found["described"], score("described", described, given, seeds))
    assert found["described"].tolist() == [2.0 * row for row in range(7)]


def test_a_reward_sees_one_slice_at_a_time_and_on_the_device(samples):
    seen = []

    def watch(points, x0):
        seen.append((len(points), points.device.type, x0.device.type))
        return [0.0] * len(points)

    raw_scores({"watch": watch}, samples, 3, torch.device("meta"))
    assert seen == [(3, "meta", "meta"), (3, "meta", "meta"), (1, "meta", "meta")]


def test_a_fault_names_the_seeds_of_its_slice(samples):
    def late(seed):
        return [float("nan") if number == 5 else 0.0 for number in seed.tolist()]

    with pytest.raises(RewardError, match=r"'late' returned \[nan\] for 1 of 3 samples; seeds \[5\]"):
        raw_scores({"late": late}, samples, 3, torch.device("cpu"))
