"""Intervals and alarms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from tropism.diffusion.samplers import DDIM
from tropism.evaluate import BaseDistance, Estimate, alarms, measure
from tropism.testing import scored
from tropism.toy import ToyPolicy


def test_the_interval_is_students():
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert Estimate.of(torch.tensor(values)).as_list() == pytest.approx([values.mean(), low, high])


def test_samples_of_one_prompt_count_once():
    values, prompts = torch.tensor([1.0, 3.0, 10.0, 12.0, 5.0, 7.0]), torch.tensor([4, 4, 9, 9, 1, 1])
    assert Estimate.of(values, prompts).as_list() == pytest.approx(Estimate.of(torch.tensor([2.0, 11.0, 6.0])).as_list())
    assert Estimate.of(values, torch.zeros(6)).as_list() == pytest.approx(Estimate.of(values).as_list()), "with one prompt, its samples"


def test_a_single_value_is_its_own_interval():
    assert Estimate.of(torch.tensor([3.0])).as_list() == [3, 3, 3]


def test_the_interval_holds_the_truth_in_95_of_100_cases():
    generator = torch.Generator().manual_seed(0)
    found = [Estimate.of(torch.randn(8, generator=generator)) for _ in range(2000)]
    inside = sum(e.low <= 0 <= e.high for e in found) / 2000
    assert abs(inside - 0.95) < 4 * (0.95 * 0.05 / 2000) ** 0.5


def narrow(mean: float) -> Estimate:
    return Estimate(mean, mean - 0.1, mean + 0.1)


@pytest.mark.parametrize(
    ("weight", "trained", "watched", "alarm"),
    [
        (1.0, 1.0, -1.0, True),
        (1.0, 1.0, 1.0, False),
        (1.0, 0.1, -1.0, False),  # the trained one is no better beyond its interval
        (1.0, 1.0, -0.1, False),  # the watched one is no worse beyond its interval
        (-1.0, -1.0, -1.0, True),  # a reward with a negative weight improves by falling
        (-1.0, 1.0, -1.0, False),
        (0.0, -1.0, -1.0, False),  # what has no weight is not trained on
    ],
)
def test_an_alarm_needs_a_trained_reward_better_and_a_watched_one_worse(weight, trained, watched, alarm):
    before, after = {"t": narrow(0), "w": narrow(0)}, {"t": narrow(trained), "w": narrow(watched)}
    found = alarms([("t", weight)], [("w", 1.0), ("absent", 1.0)], before, after)
    assert bool(found) == alarm
    assert not alarm or found[0].startswith("t improved while w fell from 0 to -1")
    turned = alarms([("t", weight)], [("w", -1.0)], before, {**after, "w": narrow(-watched)})
    assert bool(turned) == alarm, "where lower is better, rising is worse"
    assert not alarm or turned[0].startswith("t improved while w rose from 0 to 1")


def test_the_distance_to_the_base_is_the_root_mean_square_difference():
    base, moved = (scored(ToyPolicy(), [{"prompt": "p"}] * 3, DDIM(1.0), 3, torch.zeros(3)) for _ in range(2))
    moved.x0 = base.x0 + torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]])
    found = measure(moved, base, [BaseDistance()])
    assert found["base-distance"].mean == pytest.approx(((25 / 2) ** 0.5 + 0 + 1) / 3)
