"""Intervals and alarms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from tropism.diffusion.samplers import DDIM
from tropism.evaluate import BaseDistance, Estimate, alarms, measure
from tropism.rewards.base import units
from tropism.testing import scored
from tropism.toy import Near, ToyPolicy


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


def held(interval, count: int, chance: float) -> float:
    """How often an interval holds the chance, by the binomial law of how many of ``count`` there are."""
    shares = np.arange(count + 1) / count
    ends = np.array([interval(share) for share in shares])
    return float(stats.binom.pmf(np.arange(count + 1), count, chance)[(ends[:, 0] <= chance) & (chance <= ends[:, 1])].sum())


@pytest.mark.parametrize(("count", "chance"), [(24, 0.8), (24, 0.95), (96, 0.5), (96, 0.8), (96, 0.9), (96, 0.95), (96, 0.02)])
def test_the_interval_of_a_share_holds_the_truth_where_students_and_a_bootstrap_do_not(count, chance):
    def students(share):
        half = stats.t.ppf(0.975, count - 1) * (share * (1 - share) / (count - 1)) ** 0.5
        return share - half, share + half

    def bootstrap(share):  # percentiles; the resampled share is binomial, so nothing needs to be drawn
        return stats.binom.ppf(0.025, count, share) / count, stats.binom.ppf(0.975, count, share) / count

    def ours(share):
        return Estimate.of(torch.arange(count) < round(share * count)).as_list()[1:]

    assert 0.94 < held(ours, count, chance) < 0.98
    worst = {(24, 0.95): (0.71, 0.71), (96, 0.95): (0.86, 0.93), (96, 0.8): (0.95, 0.95)}
    if (count, chance) in worst:  # what the docstring says
        found = held(students, count, chance), held(bootstrap, count, chance)
        assert found == pytest.approx(worst[count, chance], abs=0.006)


def test_a_share_stays_a_share():
    all_stand = Estimate.of(torch.ones(96, dtype=torch.bool))
    assert all_stand.mean == all_stand.high == 1 and all_stand.low == pytest.approx(0.9605, abs=1e-3)
    assert Estimate.of(torch.zeros(96)).as_list() == [0, 0, 0], "zeros alone need not be a share, as the base's distance to itself"
    some = torch.tensor([1, 1, 0, 1, 1, 1, 1, 1])
    assert Estimate.of(some.float()) == Estimate.of(some.bool())
    assert Estimate.of(some.bool()).high < 1 < Estimate.of(some + 1e-9).high, "Student's goes beyond"


@pytest.mark.parametrize("stand", [0.0, 1.0])
def test_a_reward_that_is_a_share_has_an_interval_also_where_all_stand_or_none(stand):
    class Stands:
        unit = "share"

    made = scored(ToyPolicy(), [{"prompt": "p"}] * 24, DDIM(1.0), 3, torch.zeros(24))
    made.cond.group = torch.arange(24)
    made.scores = {"stands": torch.full((24,), stand), "distance": torch.full((24,), stand), "part": torch.linspace(0, 1, 24)}
    found = measure(made, made, [], units({"stands": Stands(), "distance": Near(), "part": Stands()}))
    assert found["stands"] == Estimate.of(made.scores["stands"] > 0) and found["stands"].high - found["stands"].low > 0.1
    assert found["distance"].as_list() == [stand] * 3, "what says no unit may be anything"
    assert found["part"] == Estimate.of(made.scores["part"]), "parts of a sample are no yes or no"


def test_samples_of_one_prompt_are_worth_as_many_as_they_differ():
    alike, prompt = torch.tensor([True, True, True, False] * 6).repeat_interleave(4), torch.arange(24).repeat_interleave(4)
    assert Estimate.of(alike, prompt).as_list() == pytest.approx(Estimate.of(alike[::4]).as_list()), "four alike are worth one"
    drawn, prompt = torch.rand(1600, generator=torch.Generator().manual_seed(0)) < 0.75, torch.arange(400).repeat_interleave(4)
    apart, together = Estimate.of(drawn), Estimate.of(drawn, prompt)
    assert apart.mean == pytest.approx(together.mean) and together.high - together.low == pytest.approx(apart.high - apart.low, rel=0.1)


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
