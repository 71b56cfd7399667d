"""The contract classes that third parties subclass, kept by the toy world and by captured pipelines; and that they can fail."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.optimizers.policy_gradient import PolicyGradient
from tropism.policies.pipeline import capture
from tropism.testing import OptimizerContract, PolicyContract, RewardContract, scored
from tropism.toy import Near, ToyPolicy

PROMPTS = [{"prompt": "a red apple"}, {"prompt": "a dog"}, {"prompt": "the sea"}]


class TestToyWithDdim(PolicyContract):
    @pytest.fixture
    def policy(self):
        return ToyPolicy()

    @pytest.fixture
    def items(self):
        return PROMPTS


class TestToyWithConsistency(TestToyWithDdim):
    @pytest.fixture
    def sampler(self):
        return Consistency()


class TestStableDiffusion(PolicyContract):
    @pytest.fixture
    def policy(self):
        return capture(tiny.stable_diffusion(), guidance_scale=5.0)

    @pytest.fixture
    def items(self):
        return PROMPTS


class TestLatentConsistency(PolicyContract):
    @pytest.fixture
    def policy(self):
        return capture(tiny.latent_consistency(), guidance_scale=8.0)

    @pytest.fixture
    def items(self):
        return PROMPTS

    @pytest.fixture
    def sampler(self):
        return Consistency()


class TestNear(RewardContract):
    @pytest.fixture
    def reward(self):
        return Near(1.0, 1.0)

    @pytest.fixture
    def given(self):
        return {"points": torch.randn(5, 2)}


class TestPolicyGradient(OptimizerContract):
    @pytest.fixture
    def optimizer(self):
        return PolicyGradient()


def test_a_reward_that_looks_at_its_neighbours_fails_the_contract():
    with pytest.raises(AssertionError):
        RewardContract().test_scores_do_not_depend_on_neighbours_or_order(
            lambda points: (points - points.mean(0)).norm(dim=1), {"points": torch.randn(5, 2)}
        )


def test_a_reward_that_changes_its_samples_fails_the_contract():
    with pytest.raises(AssertionError, match="points was changed"):
        RewardContract().test_scores_are_repeatable_and_leave_the_samples_alone(
            lambda points: points.mul_(1).zero_().sum(1), {"points": torch.ones(5, 2)}
        )


def test_a_policy_with_dropout_left_on_fails_the_contract():
    policy = ToyPolicy()
    policy.network.layers.append(torch.nn.Dropout(0.5))
    torch.nn.init.ones_(policy.network.layers[-2].bias)
    with pytest.raises(AssertionError):
        PolicyContract().test_replayed_log_probability_equals_the_stored_one(policy, PROMPTS, DDIM(), 4)


def test_an_optimizer_with_the_wrong_sign_fails_the_contract():
    class Backwards(PolicyGradient):
        def loss(self, policy, batch):
            loss, metrics = super().loss(policy, batch)
            return -loss, metrics

    contract, policy = OptimizerContract(), ToyPolicy()
    rollout = scored(policy, PROMPTS, DDIM(1.0), 5, torch.tensor([-1.0, 0.5, 1.0]))
    with pytest.raises(AssertionError):
        contract.test_a_small_step_makes_good_samples_likelier_than_bad_ones(Backwards(), policy, rollout)
