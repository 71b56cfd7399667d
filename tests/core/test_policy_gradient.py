"""The clipped policy gradient against its formula in float64 and against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from tropism.diffusion.flow_samplers import FlowSde
from tropism.diffusion.rollout import collect, replay, retake
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.optimizers.base import StepBatch, batches
from tropism.optimizers.policy_gradient import PolicyGradient
from tropism.policies.adapters import Trainable
from tropism.testing import condition, scored
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


def test_the_divergence_from_the_base_is_zero_at_the_start_and_has_gradient_as_soon_as_the_policy_has_moved(policy, rollout):
    optimizer = PolicyGradient(kl=1.0)
    optimizer.attach(Trainable(policy.trainable(), None))
    rollout.advantage = torch.zeros(COUNT)
    loss, metrics = optimizer.loss(policy, everything(rollout))
    assert loss.item() == 0 and metrics["base_kl"] == 0
    move(policy, 1e-2)
    bias = policy.network.layers[-1].bias
    loss, metrics = optimizer.loss(policy, everything(rollout))
    (gradient,) = torch.autograd.grad(loss, bias)
    assert (gradient.abs() > 1e-4).all() and metrics["base_kl"].item() == pytest.approx(loss.item())
    for component in range(2):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                bias[component] += sign * 1e-2
                values.append(optimizer.loss(policy, everything(rollout))[0].item())
                bias[component] -= sign * 1e-2
        assert gradient[component].item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-2, abs=1e-4)


def test_the_divergence_is_that_of_torch_averaged_over_dimensions(policy, rollout):
    trainable = Trainable(policy.trainable(), None)
    optimizer = PolicyGradient(kl=0.25)
    optimizer.attach(trainable)
    move(policy, 2e-2)
    batch = everything(rollout)
    mine = retake(policy, DDIM(1.0), rollout, batch.sample, batch.index)
    with trainable.reference():
        base = retake(policy, DDIM(1.0), rollout, batch.sample, batch.index)
    one, other = (torch.distributions.Normal(taken.mean.double(), taken.std[:, None].double()) for taken in (mine, base))
    divergence = torch.distributions.kl_divergence(one, other).mean()
    loss, metrics = optimizer.loss(policy, batch)
    plain, _ = PolicyGradient().loss(policy, batch)
    assert divergence > 1e-5
    assert metrics["base_kl"].item() == pytest.approx(divergence.item(), rel=1e-3)
    assert (loss - plain).item() == pytest.approx(0.25 * divergence.item(), rel=1e-2)


GUARDED = {
    "ddim": (DDIM(1.0), "epsilon"),
    "flow-sde": (FlowSde(), "flow"),
    "flow-sde of epsilon": (FlowSde(), "epsilon"),
    "consistency": (Consistency(), "epsilon"),
}


@pytest.mark.parametrize("name", GUARDED)
@pytest.mark.parametrize("distance", [0.0, 2e-2])
def test_grpo_guard_is_its_formula(name, distance):
    """exp(mean z (mu - mu_old)) in flow coordinates, over h; z is the noise of the step, mu_old from the weights that sampled; float64."""
    sampler, parametrization = GUARDED[name]
    policy = ToyPolicy(parametrization=parametrization)
    cond = condition(policy, [{"prompt": "p"}] * COUNT)
    rollout = collect(policy, cond, sampler, STEPS, means=True)
    rollout.advantage = ADVANTAGE.clone()
    trained = rollout.steps.on.nonzero().flatten()
    assert len(trained) == STEPS - 1, "the last step of each has no noise"
    batch = StepBatch(rollout, sampler, torch.arange(COUNT).repeat(len(trained)), trained.repeat_interleave(COUNT), 1.0)
    with torch.no_grad():
        old = retake(policy, sampler, rollout, batch.sample, batch.index)
        move(policy, distance)
        new = retake(policy, sampler, rollout, batch.sample, batch.index)
    total = []
    for row, (sample, index) in enumerate(zip(batch.sample.tolist(), batch.index.tolist(), strict=True)):
        alpha, sigma = (value.double()[index : index + 2].tolist() for value in (rollout.steps.levels.alpha, rollout.steps.levels.sigma))
        h, scale = sigma[0] / (alpha[0] + sigma[0]) - sigma[1] / (alpha[1] + sigma[1]), alpha[1] + sigma[1]
        z = (rollout.steps.x[sample, index + 1].double() - old.mean[row].double()) / old.std[row].double()
        rho = (z * (new.mean[row] - old.mean[row]).double() / scale).mean().exp().item()
        a = min(max(ADVANTAGE[sample].item(), -5), 5)
        total.append(max(-a * rho, -a * min(max(rho, 1 - 1e-3), 1 + 1e-3)) / h)
    loss, metrics = PolicyGradient(clip=1e-3, normalise=True).loss(policy, batch)
    assert loss.item() == pytest.approx(sum(total) / len(total), rel=1e-4, abs=1e-4)
    assert (metrics["ratio_error"] < 1e-6) == (distance == 0)


def test_grpo_guard_has_no_bias_below_one_where_the_plain_ratio_has():
    """Over many samples the mean of log rho is -KL for the plain ratio and about 0 for GRPO-Guard's."""
    policy, count = ToyPolicy(), 4000
    rollout = collect(policy, condition(policy, [{"prompt": "p"}] * count), DDIM(1.0), 2, means=True)
    rows, index = torch.arange(count), torch.zeros(count, dtype=torch.long)
    move(policy, 0.1)
    with torch.no_grad():
        taken = retake(policy, DDIM(1.0), rollout, rows, index)
        plain = taken.logp - rollout.steps.logp[:, 0]
        moved = (taken.mean - rollout.steps.mean[:, 0]).square().mean(1) / (2 * taken.std**2)
    assert plain.mean() < -0.5 * moved.mean() < 0
    assert (plain + moved).mean().abs() < 4 * (plain + moved).std() / count**0.5
