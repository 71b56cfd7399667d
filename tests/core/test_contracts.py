"""The contract classes that third parties subclass, kept by the toy world and by captured pipelines; and that they can fail."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tropism.diffusion.flow_samplers import FlowSde
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.optimizers.awm import Awm
from tropism.optimizers.d3po import D3po
from tropism.optimizers.direct import Direct
from tropism.optimizers.dpo import Dpo
from tropism.optimizers.dro import Dro
from tropism.optimizers.inpo import Inpo
from tropism.optimizers.kto import Kto
from tropism.optimizers.nft import Nft
from tropism.optimizers.policy_gradient import PolicyGradient
from tropism.optimizers.rlcm_direct import RlcmDirect
from tropism.optimizers.smpo import Smpo
from tropism.optimizers.spo import Spo
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


class ToldApart(ToyPolicy):
    """A toy with guidance for sampling alone."""

    def predict(self, x, level, cond):
        return 1.5 * self.unguided(x, level, cond)

    def unguided(self, x, level, cond):
        return super().predict(x, level, cond)


class TestToyWithGuidance(TestToyWithDdim):
    @pytest.fixture
    def policy(self):
        return ToldApart()


class TestToyFlowWithSde(TestToyWithDdim):
    @pytest.fixture
    def policy(self):
        return ToyPolicy(parametrization="flow")

    @pytest.fixture
    def sampler(self):
        return FlowSde()


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
    @pytest.fixture(params=[PolicyGradient(), PolicyGradient(kl=0.1), PolicyGradient(normalise=True)], ids=["plain", "kl", "guard"])
    def optimizer(self, request):
        return request.param


class TestForwardProcess(OptimizerContract):
    @pytest.fixture(
        params=[Nft(), Nft(beta=0.3, kl=0.0), Awm(), Awm(kl=0.0, draws=2)], ids=["nft", "nft without kl", "awm", "awm without kl"]
    )
    def optimizer(self, request):
        return request.param


class TestPreferences(OptimizerContract):
    @pytest.fixture(
        params=[
            D3po(),
            D3po(sides="one", average=0.9, anchor=0.1),
            Spo(),
            Spo(skip=1, keep=0.5, anchor=0.1, average=0.9),
            Dpo(beta=2.0),
            Dpo(beta=2.0, noise="own", anchor=0.1, keep=0.9, average=0.9),
            Inpo(beta=2.0),
            Inpo(beta=2.0, mode="compat", by="reference", eta=0.1),
            Smpo(beta=0.2),
            Kto(beta=2.0),
            Kto(beta=2.0, utility="risk-seeking", anchor=0.1),
            Dro(),
            Dro(kl=0.1, draws=2),
            Dro(ceiling=1.05, anchor=0.1),
        ],
        ids=[
            "d3po",
            "d3po one-sided",
            "spo",
            "spo with all stabilisers",
            "dpo",
            "dpo with all stabilisers",
            "inpo",
            "inpo compat",
            "smpo",
            "kto",
            "kto risk-seeking",
            "dro",
            "dro with kl",
            "dro with a ceiling",
        ],
    )
    def optimizer(self, request):
        return request.param


class TestBackPropagation(OptimizerContract):
    @pytest.fixture(
        params=[
            Direct(),
            Direct(3),
            Direct([1, 5], recompute=True),
            Direct([2, 3], jump=True, ceiling=1.0),
            Direct(2, kl=0.5),
            RlcmDirect(direct=2.0),
        ],
        ids=["draft-1", "draft-3", "alignprop", "refl", "tied", "rlcm-direct"],
    )
    def optimizer(self, request):
        return request.param


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


@pytest.mark.parametrize(
    "fault", [lambda x: x.detach(), lambda x: x[:, :1], lambda x: x / 0, lambda x: x.double()], ids=["detached", "shape", "inf", "type"]
)
def test_a_policy_whose_unguided_is_no_prediction_fails_the_contract(fault):
    policy = ToldApart()
    policy.unguided = lambda x, level, cond: fault(ToyPolicy.predict(policy, x, level, cond))
    with pytest.raises(AssertionError):
        PolicyContract().test_unguided_keeps_the_shape_and_can_learn(policy, PROMPTS, DDIM(), 4)
    assert all(p.grad is None for p in policy.network.parameters())


def test_an_optimizer_with_the_wrong_sign_fails_the_contract():
    class Backwards(PolicyGradient):
        def loss(self, policy, batch):
            loss, metrics = super().loss(policy, batch)
            return -loss, metrics

    contract, optimizer, policy = OptimizerContract(), Backwards(), ToyPolicy()
    rollout = scored(policy, PROMPTS, DDIM(1.0), 5, torch.tensor([-1.0, 0.5, 1.0]))
    with pytest.raises(AssertionError):
        contract.test_a_small_step_favours_good_samples_over_bad_ones(optimizer, policy, rollout)
