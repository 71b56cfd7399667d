"""The clipped policy gradient against its formula in float64 and against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from tropism.diffusion.rollout import replay
from tropism.diffusion.samplers import DDIM
from tropism.optimizers.base import StepBatch, batches
from tropism.optimizers.policy_gradient import PolicyGradient
from tropism.testing import scored
from tropism.toy import ToyPolicy

COUNT, STEPS = 6, 4
ADVANTAGE = torch.tensor([-9.0, -1.0, 0.5, 1.0, 2.0, 8.0])


@pytest.fixture
def policy():
    made = ToyPolicy()
    torch.nn.init.normal_(made.network.layers[-1].weight, std=0.05)
    return made


@pytest.fixture
def rollout(policy):
    return scored(policy, [{"prompt": "p"}] * COUNT, DDIM(1.0), STEPS, ADVANTAGE.clone())


def everything(rollout) -> StepBatch:
    trained = rollout.steps.on.nonzero().flatten()
    return StepBatch(rollout, DDIM(1.0), torch.arange(COUNT).repeat(len(trained)), trained.repeat_interleave(COUNT), 1.0)


def move(policy, scale: float) -> None:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in policy.trainable().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def by_hand(policy, batch: StepBatch, clip: float, advantage_clip: float) -> float:
    """The formula of the docstring, sample by sample, from densities that torch.distributions computes in float64."""
    terms = []
    for sample, index in zip(batch.sample.tolist(), batch.index.tolist(), strict=True):
        states, levels = batch.rollout.steps.x, batch.rollout.steps.levels
        now, then = levels[index].expand(1), levels[index + 1].expand(1)
        with torch.no_grad():
            mean, std = DDIM(1.0).mean(policy, states[sample : sample + 1, index], now, then, {}), DDIM(1.0).deviation(now, then)
        density = (
            torch.distributions.Normal(mean.double(), std.double()).log_prob(states[sample : sample + 1, index + 1].double()).mean().item()
        )
        rho = math.exp(density - batch.rollout.steps.logp[sample, index].item())
        a = min(max(ADVANTAGE[sample].item(), -advantage_clip), advantage_clip)
        terms.append(max(-a * rho, -a * min(max(rho, 1 - clip), 1 + clip)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("clip", [1e-4, 1e-2, 0.2])
@pytest.mark.parametrize("advantage_clip", [5.0, 10.0])
@pytest.mark.parametrize("distance", [0.0, 1e-3, 3e-2])
def test_the_loss_is_the_formula(policy, rollout, clip, advantage_clip, distance):
    move(policy, distance)
    batch = everything(rollout)
    loss, _ = PolicyGradient(clip, advantage_clip).loss(policy, batch)
    assert loss.item() == pytest.approx(by_hand(policy, batch, clip, advantage_clip), rel=1e-4, abs=1e-5)


def test_the_gradient_is_that_of_finite_differences(policy, rollout):
    move(policy, 1e-3)
    batch, optimizer = everything(rollout), PolicyGradient(clip=0.5)
    bias = policy.network.layers[-1].bias
    optimizer.loss(policy, batch)[0].backward()
    for component in range(2):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                bias[component] += sign * 1e-3
                values.append(by_hand(policy, batch, 0.5, 5.0))
                bias[component] -= sign * 1e-3
        assert bias.grad[component].item() == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-2, abs=1e-4)


def test_at_ratio_one_the_gradient_is_minus_the_advantage_times_that_of_the_log_probability(policy, rollout):
    batch, parameters = everything(rollout), list(policy.trainable().parameters())
    found = torch.autograd.grad(PolicyGradient(advantage_clip=100.0).loss(policy, batch)[0], parameters)
    logp = replay(policy, DDIM(1.0), rollout, batch.sample, batch.index)
    expected = torch.autograd.grad((-ADVANTAGE[batch.sample] * logp).mean(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert any(g.abs().max() > 1e-3 for g in found)


def test_zero_advantage_has_zero_gradient(policy, rollout):
    rollout.advantage = torch.zeros(COUNT)
    move(policy, 1e-2)
    loss, _ = PolicyGradient().loss(policy, everything(rollout))
    loss.backward()
    assert loss.item() == 0 and all((p.grad == 0).all() for p in policy.trainable().parameters())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_clip_stops_steps_that_have_gone_far_enough_and_no_others(policy, rollout, sign):
    move(policy, 1e-2)
    with torch.no_grad():
        batch = everything(rollout)
        ratio = (replay(policy, DDIM(1.0), rollout, batch.sample, batch.index) - rollout.steps.logp[batch.sample, batch.index]).exp()
    assert (ratio > 1.001).any() and (ratio < 0.999).any(), "both sides were meant to occur"
    rollout.advantage = torch.full((COUNT,), sign)
    bias = policy.network.layers[-1].bias
    for row, rho in enumerate(ratio.tolist()):
        one = StepBatch(rollout, DDIM(1.0), batch.sample[row : row + 1], batch.index[row : row + 1], 1.0)
        if abs(rho - 1) < 2e-5:
            continue
        (gradient,) = torch.autograd.grad(PolicyGradient(clip=1e-5).loss(policy, one)[0], bias)
        gone_far = rho > 1 if sign > 0 else rho < 1
        assert (gradient == 0).all() == gone_far, rho


def test_advantages_are_clamped(policy, rollout):
    batch = everything(rollout)
    found = PolicyGradient(advantage_clip=1.5).loss(policy, batch)[0].item()
    assert found == pytest.approx(-ADVANTAGE.clamp(-1.5, 1.5).mean().item(), rel=1e-5)
    assert rollout.advantage.tolist() == ADVANTAGE.tolist(), "the rollout keeps its own"


def test_metrics_say_how_far_the_policy_has_moved(policy, rollout):
    batch = everything(rollout)
    _, metrics = PolicyGradient().loss(policy, batch)
    assert metrics["ratio_error"] < 1e-5 and metrics["clip_fraction"] == 0 and metrics["approximate_kl"] < 1e-10
    move(policy, 3e-2)
    _, metrics = PolicyGradient(clip=1e-3).loss(policy, batch)
    with torch.no_grad():
        change = replay(policy, DDIM(1.0), rollout, batch.sample, batch.index) - rollout.steps.logp[batch.sample, batch.index]
    assert metrics["ratio_error"].item() == pytest.approx((change.exp() - 1).abs().max().item())
    assert metrics["clip_fraction"].item() == pytest.approx(((change.exp() - 1).abs() > 1e-3).float().mean().item())
    assert metrics["approximate_kl"].item() == pytest.approx(0.5 * change.square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(("updates", "micro"), [(1, 6), (2, 3), (3, 2), (1, 100), (1, 4), (6, 1), (2, 7)])
def test_batches_cover_every_trained_step_once_and_their_shares_sum_to_one(rollout, updates, micro):
    rollout.steps.on[1] = False
    cut = batches(rollout, DDIM(1.0), updates, micro)
    assert len(cut) == updates
    taken = []
    for group in cut:
        assert sum(batch.share for batch in group) == pytest.approx(1.0)
        assert all(
            len(batch.sample) <= micro and batch.share == pytest.approx(len(batch.sample) / sum(len(b.sample) for b in group))
            for batch in group
        )
        pairs = [pair for batch in group for pair in zip(batch.sample.tolist(), batch.index.tolist(), strict=True)]
        assert len({sample for sample, _ in pairs}) == COUNT // updates
        taken.extend(pairs)
    trained = [index for index in range(STEPS) if rollout.steps.on[index]]
    assert 1 not in trained and sorted(taken) == sorted((sample, index) for sample in range(COUNT) for index in trained)


def test_batches_of_the_rollouts_own_size_are_its_own_batches(rollout):
    (group,) = batches(rollout, DDIM(1.0), 1, 3)
    assert all(batch.index.unique().numel() == 1 for batch in group)
    assert {tuple(batch.sample.tolist()) for batch in group} == {(0, 1, 2), (3, 4, 5)}
