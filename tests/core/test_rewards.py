"""Rewards: what they need, what they may say, and how several become one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tropism.errors import RewardError
from tropism.rewards.base import fields, needs, score
from tropism.rewards.combine import Combined, Part, Running
from tropism.toy import Near
from tropism.types import Condition, Level, Rollout, Steps

SEEDS = [101, 102, 103, 104]


def rollout(x0: torch.Tensor) -> Rollout:
    count = len(x0)
    items = [{"prompt": f"p{index}", "label": index} for index in range(count)]
    cond = Condition(items=items, encoded={}, seed=torch.arange(count) + 101, group=torch.zeros(count, dtype=torch.long))
    empty = torch.zeros(count, 0)
    steps = Steps(x=empty, levels=Level(empty, empty, empty), logp=empty, on=torch.zeros(0, dtype=torch.bool))
    return Rollout(cond=cond, x0=x0, steps=steps, media={"points": x0})


def test_argument_names_say_what_a_reward_needs():
    assert needs(lambda image, prompt: 0) == ("image", "prompt")
    assert needs(lambda image, scale=2.0, *, seed, depth=1, **rest: 0) == ("image", "seed")
    assert needs(Near()) == ("points",)


def test_a_reward_may_name_media_items_seeds_and_latents():
    given = fields(rollout(torch.eye(2)))
    assert set(given) == {"points", "prompt", "label", "x0", "seed", "t"}
    assert given["prompt"] == ["p0", "p1"] and given["label"] == [0, 1] and given["seed"].tolist() == [101, 102]


@pytest.mark.parametrize(
    "returned",
    [
        [1, 2, 3, 4],
        (1.0, 2.0, 3.0, 4.0),
        np.array([1, 2, 3, 4]),
        torch.tensor([1, 2, 3, 4]),
        torch.arange(1.0, 5.0, dtype=torch.float64).requires_grad_(),
    ],
    ids=["list", "tuple", "array", "integers", "float64 with gradient"],
)
def test_a_plain_function_is_a_reward_whatever_it_returns_its_scores_in(returned):
    values = score("mine", lambda label: returned, {"label": [0] * 4}, SEEDS)
    assert values.tolist() == [1, 2, 3, 4]
    assert values.dtype == torch.float32 and not values.requires_grad


def test_a_reward_runs_without_gradient():
    x = torch.ones(4, requires_grad=True)
    seen = []
    score("mine", lambda x0: seen.append((x0 * 2).requires_grad) or x0, {"x0": x}, SEEDS)
    assert seen == [False]


def test_absent_fields_are_named_with_those_present():
    with pytest.raises(RewardError, match="reward 'mine' needs image, depth; the samples have prompt, x0"):
        score("mine", lambda image, depth, prompt: 0, {"x0": 1, "prompt": 2}, SEEDS)


@pytest.mark.parametrize(
    ("returned", "shape"),
    [(torch.ones(4, 1), r"\[4, 1\]"), (torch.ones(3), r"\[3\]"), (1.0, r"\[\]"), (torch.ones(1), r"\[1\]"), ([[1, 2]] * 4, r"\[4, 2\]")],
)
def test_another_number_of_scores_is_refused(returned, shape):
    with pytest.raises(RewardError, match=f"reward 'mine' returned shape {shape}; expected \\[4\\]"):
        score("mine", lambda: returned, {}, SEEDS)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_names_the_seeds(bad):
    with pytest.raises(RewardError, match=r"for 2 of 4 samples; seeds \[102, 104\]") as told:
        score("mine", lambda: [0.0, bad, 1.0, bad], {}, SEEDS)
    assert str(bad) in str(told.value)


def test_what_overflows_float32_is_not_finite():
    with pytest.raises(RewardError, match=r"seeds \[101\]"):
        score("mine", lambda: torch.tensor([1e300, 0, 0, 0], dtype=torch.float64), {}, SEEDS)


@pytest.mark.parametrize("returned", [None, "high", ["a", "b", "c", "d"], object()])
def test_what_is_no_number_is_refused_by_name(returned):
    with pytest.raises(RewardError, match="reward 'mine'"):
        score("mine", lambda: returned, {}, SEEDS)


def test_a_reward_that_raises_is_named_and_keeps_its_cause():
    def broken(label):
        raise ConnectionError("no route to host")

    with pytest.raises(RewardError, match="reward 'mine' raised ConnectionError: no route to host") as told:
        score("mine", broken, {"label": []}, SEEDS)
    assert isinstance(told.value.__cause__, ConnectionError)


A, B = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([10.0, 10.0, 30.0, 50.0])


def combined(normalise: str) -> Combined:
    return Combined([Part("a", lambda label: A[label], 2.0, normalise), Part("b", lambda label: B[label], -0.5, normalise)])


def test_without_normalisation_the_sum_is_of_raw_values():
    made = combined("none")(rollout(torch.zeros(4, 2)))
    assert torch.equal(made.reward, 2 * A - 0.5 * B)
    assert torch.equal(made.scores["a"], A) and torch.equal(made.scores["b"], B)


def test_batch_normalisation_is_the_z_score_in_the_rollout():
    made = combined("batch")(rollout(torch.zeros(4, 2)))
    a, b = ((v.numpy() - v.numpy().mean()) / v.numpy().std() for v in (A, B))
    np.testing.assert_allclose(made.reward.numpy(), 2 * a - 0.5 * b, rtol=1e-5)
    assert torch.equal(made.scores["a"], A), "raw values are kept"


def test_running_normalisation_is_the_z_score_over_the_run():
    values = [torch.randn(4) * 3 + 7 for _ in range(5)]
    feed = iter(values)
    made = Combined([Part("a", lambda label: next(feed), 1.0, "running")])
    for index in range(5):
        found = made(rollout(torch.zeros(4, 2))).reward
        seen = torch.cat(values[: index + 1]).double().numpy()
        np.testing.assert_allclose(found.numpy(), (values[index].numpy() - seen.mean()) / seen.std(), rtol=1e-4, atol=1e-5)


def test_running_statistics_are_those_of_all_values_even_far_from_zero():
    values, running = torch.randn(1000, dtype=torch.float64) * 1e-2 + 1e6, Running()
    for part in values.split(7):
        running.update(part)
    assert running.count == 1000
    assert running.mean == pytest.approx(values.mean().item(), abs=1e-6)
    assert running.std == pytest.approx(values.std(correction=0).item(), rel=1e-5)


@pytest.mark.parametrize("normalise", ["batch", "running"])
@pytest.mark.parametrize("value", [3.0, 0.1, 123.456])
def test_equal_scores_normalise_to_zero_and_not_to_nan(normalise, value):
    made = Combined([Part("a", lambda label: [value] * 11, 1.0, normalise)])(rollout(torch.zeros(11, 2)))
    assert made.reward.tolist() == [0] * 11


def test_the_state_of_a_combination_goes_round():
    first, second = combined("running"), combined("running")
    first(rollout(torch.zeros(4, 2)))
    second.load_state_dict(first.state_dict())
    one, other = (made(rollout(torch.zeros(4, 2))).reward for made in (first, second))
    assert torch.equal(one, other)
    assert first.state_dict() == second.state_dict()
    assert first.state_dict()["a"][0] == 8


def test_a_reward_that_fails_leaves_the_running_statistics_as_they_were():
    made = Combined([Part("a", lambda label: A[label], 1.0, "running"), Part("b", lambda label: [math.nan] * 4, 1.0, "running")])
    before = made.state_dict()
    with pytest.raises(RewardError):
        made(rollout(torch.zeros(4, 2)))
    assert made.state_dict() == before


def test_the_value_of_a_combination_has_the_gradient_of_its_weighted_sum():
    x = torch.randn(4, 2, requires_grad=True)
    made = Combined([Part("a", lambda x0: x0[:, 0] ** 2, 2.0), Part("b", lambda x0: x0.sum(1), -0.5)])
    value = made.value(rollout(x))
    torch.testing.assert_close(value, 2 * x[:, 0] ** 2 - 0.5 * x.sum(1))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(gradient, torch.stack([4 * x[:, 0] - 0.5, torch.full((4,), -0.5)], 1).detach())


def test_a_reward_without_gradient_has_no_value_to_follow():
    with pytest.raises(RewardError, match=r"reward 'b' gave shape \[4\], without gradient; expected \[4\] with gradient"):
        Combined([Part("b", lambda x0: x0.detach().sum(1))]).value(rollout(torch.zeros(4, 2, requires_grad=True)))
