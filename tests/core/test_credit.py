"""Credit rules against their definitions."""

from __future__ import annotations

import json
from collections import deque

import numpy as np
import pytest
import torch

from tropism.credit import Batch, Group, PerPrompt
from tropism.rewards.combine import Combined, Part
from tropism.siblings import equal_share
from tropism.types import Condition, Level, Rollout, Steps


def scored(reward, prompts=None, group=None) -> Rollout:
    reward = torch.as_tensor(reward, dtype=torch.float32)
    count = len(reward)
    cond = Condition(
        items=[{"prompt": prompt} for prompt in prompts or ["p"] * count],
        encoded={},
        seed=torch.arange(count),
        group=torch.as_tensor(group if group is not None else [0] * count),
    )
    empty = torch.zeros(count, 0)
    steps = Steps(x=empty, levels=Level(empty, empty, empty), logp=empty, on=torch.zeros(0, dtype=torch.bool))
    return Rollout(cond=cond, x0=empty, steps=steps, reward=reward)


def ddpo_tracker(stats, prompts, rewards, buffer_size, min_count):
    """The per-prompt tracker of DDPO, written anew from its description (float64)."""
    advantages = np.empty(len(rewards))
    for prompt in sorted(set(prompts)):
        mine = np.array([p == prompt for p in prompts])
        stats.setdefault(prompt, deque(maxlen=buffer_size)).extend(rewards[mine])
        source = np.array(stats[prompt]) if len(stats[prompt]) >= min_count else rewards
        advantages[mine] = (rewards[mine] - source.mean()) / (source.std() + 1e-6)
    return advantages


@pytest.mark.parametrize(("buffer", "least"), [(16, 16), (32, 16), (8, 3), (4, 1)])
def test_per_prompt_is_the_tracker_of_ddpo(buffer, least):
    generator = np.random.default_rng(0)
    rule, stats, personal = PerPrompt(buffer, least), {}, 0
    for _ in range(12):
        prompts = [f"p{index}" for index in generator.integers(0, 4, 20)]
        rewards = generator.normal(size=20).astype(np.float32)
        expected = ddpo_tracker(stats, prompts, rewards.astype(np.float64), buffer, least)
        np.testing.assert_allclose(rule(scored(rewards, prompts)).numpy(), expected, rtol=1e-4, atol=1e-5)
        personal += any(len(seen) >= least for seen in stats.values())
    assert personal >= 6, "the prompts' own statistics were meant to be used"


def test_per_prompt_goes_on_from_a_saved_state_exactly():
    generator = np.random.default_rng(1)
    rollouts = [scored(generator.normal(size=12), [f"p{i}" for i in generator.integers(0, 3, 12)]) for _ in range(6)]
    straight, first = PerPrompt(8, 4), PerPrompt(8, 4)
    expected = [straight(rollout) for rollout in rollouts]
    for rollout in rollouts[:3]:
        first(rollout)
    second = PerPrompt(8, 4)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert all(torch.equal(second(rollout), advantage) for rollout, advantage in zip(rollouts[3:], expected[3:], strict=True))
    assert second.state_dict() == straight.state_dict()


def test_group_is_the_z_score_among_siblings():
    rewards, groups = [1.0, 3.0, 10.0, 20.0, 30.0], [7, 7, 2, 2, 2]
    found = Group()(scored(rewards, group=groups)).numpy()
    std = np.std([10, 20, 30])
    np.testing.assert_allclose(found, [-1 / 1.0001, 1 / 1.0001, -10 / (std + 1e-4), 0, 10 / (std + 1e-4)], rtol=1e-5, atol=1e-6)


def test_a_group_of_equal_rewards_has_advantage_zero_exactly():
    found = Group()(scored([0.1, 0.1, 0.1, 0.7, 0.3, 0.2], group=[0, 0, 0, 1, 1, 1]))
    assert found[:3].tolist() == [0, 0, 0]
    assert (found[3:] != 0).all()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 123.456, -7.7e5, 1e-8])
@pytest.mark.parametrize("size", [2, 3, 5, 7, 11])
def test_equal_rewards_teach_nothing_whatever_their_value(value, size):
    for rule in (Group(), Group("batch"), Batch(), PerPrompt(min_count=100), PerPrompt(min_count=1)):
        assert (rule(scored([value] * size)) == 0).all(), type(rule).__name__


def test_group_by_the_deviation_of_the_batch_is_that_of_flow_grpo():
    rewards = np.array([1.0, 3.0, 10.0, 20.0])
    found = Group("batch")(scored(rewards, group=[0, 0, 1, 1])).numpy()
    np.testing.assert_allclose(found, np.array([-1, 1, -5, 5]) / (rewards.std() + 1e-4), rtol=1e-5)


def test_group_refuses_an_unknown_scale():
    with pytest.raises(ValueError, match="scale: 'world'; expected 'group' or 'batch'"):
        Group("world")


def test_batch_is_the_z_score_of_the_rollout():
    rewards = np.array([1.0, 2.0, 4.0, 9.0])
    found = Batch()(scored(rewards)).numpy()
    np.testing.assert_allclose(found, (rewards - rewards.mean()) / rewards.std(), rtol=1e-5)


@pytest.mark.parametrize("rule", [Batch(), Group(), PerPrompt()])
def test_advantages_sum_to_zero_and_ignore_shift_and_scale(rule):
    rewards = torch.randn(8)
    first, moved = (
        rule(scored(rewards)),
        rule(scored(rewards * 3 + 100)) if not isinstance(rule, PerPrompt) else PerPrompt()(scored(rewards * 3 + 100)),
    )
    assert abs(first.sum().item()) < 1e-4
    torch.testing.assert_close(first, moved, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("rule", [Batch(), Group(), PerPrompt()])
def test_a_rollout_without_scores_is_refused(rule):
    rollout = scored([1.0, 2.0])
    rollout.reward = None
    with pytest.raises(ValueError, match="has not been scored"):
        rule(rollout)


def test_group_needs_siblings_and_the_others_do_not():
    assert (Group.min_group, Batch.min_group, PerPrompt.min_group) == (2, 1, 1)


def test_the_share_of_groups_of_equal_rewards_is_counted():
    group = torch.tensor([0, 0, 0, 5, 5, 9, 9, 2, 2, 2])
    values = torch.tensor([0.1, 0.1, 0.1, 1.0, 2.0, 7.0, 7.0, 0.3, 0.3, 0.30001])
    assert equal_share(values, group) == pytest.approx(2 / 4)
    assert equal_share(torch.full((6,), 1 / 3), torch.arange(6) // 2) == 1
    assert equal_share(torch.randn(6), torch.arange(6) // 2) == 0


def test_group_normalised_rewards_with_batch_credit_are_gdpo():
    """Each reward's z-score in its group, the weighted sum of them, the z-score of that over the batch; in float64, prompt by prompt."""
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=(3, 4)), 100 * generator.normal(size=(3, 4)) + 7
    second[1] = 5.0  # a reward that says nothing about one prompt
    group = torch.arange(12) // 4
    parts = [Part("a", lambda x0: first.ravel(), 2.0, "group"), Part("b", lambda x0: second.ravel(), 0.5, "group")]
    rollout = scored([0.0] * 12, group=group)
    found = Batch()(Combined(parts)(rollout)).numpy()
    total = np.zeros((3, 4))
    for values, weight in ((first, 2.0), (second, 0.5)):
        for prompt in range(3):
            total[prompt] += weight * (values[prompt] - values[prompt].mean()) / (values[prompt].std() + 1e-4)
    np.testing.assert_allclose(found, ((total - total.mean()) / total.std()).ravel(), rtol=1e-4, atol=1e-5)
    assert np.abs(found).max() > 1
