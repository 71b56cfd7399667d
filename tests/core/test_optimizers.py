"""NFT, advantage-weighted matching and back-propagation against their papers' formulas, written out in float64."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from tropism.diffusion.noising import noised
from tropism.diffusion.rollout import collect, finish
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.optimizers.awm import Awm
from tropism.optimizers.base import EndBatch, SampleBatch, plan
from tropism.optimizers.direct import Direct
from tropism.optimizers.nft import Nft, _decay
from tropism.optimizers.rlcm_direct import RlcmDirect, _unit
from tropism.policies.adapters import Trainable
from tropism.testing import condition
from tropism.toy import Near, ToyPolicy

COUNT, STEPS = 6, 4
ADVANTAGE = torch.tensor([-9.0, -1.0, 0.5, 1.0, 2.0, 8.0])
ODE = DDIM(0.0)
PARAMETRIZATIONS = ["epsilon", "v_prediction", "sample", "flow"]


def near(rollout):
    return Near()(rollout.media["points"])


def move(policy, scale: float, seed: int = 9) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.trainable().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def begin(optimizer, parametrization="epsilon", sampler=ODE, steps=STEPS):
    """(policy, its rollout with advantages, its whole batch), the optimizer attached."""
    policy = ToyPolicy(parametrization=parametrization)
    move(policy, 0.02, seed=1)
    optimizer.attach(Trainable(policy.trainable(), None))
    rollout = collect(policy, condition(policy, [{"prompt": "p"}] * COUNT), sampler, steps, kept=optimizer.kept(steps))
    rollout.advantage, rollout.reward = ADVANTAGE.clone(), near_of(rollout)
    return policy, rollout, plan(optimizer, rollout, sampler, 1, 1000, 5, near)[0]


def near_of(rollout):
    return Near()(rollout.x0)


def ends_in_float64(policy, at):
    """x0 and velocity of the toy's network at noised states, from x, level and the raw output, as float64 arrays."""
    x, alpha, sigma = (value.double().numpy() for value in (at.x, at.level.alpha[:, None], at.level.sigma[:, None]))
    with torch.no_grad():
        out = policy.predict(at.x, at.level, {}).double().numpy()
    kind = policy.schedule.parametrization
    if kind == "epsilon":
        x0, noise = (x - sigma * out) / alpha, out
    elif kind == "v_prediction":
        x0, noise = alpha * x - sigma * out, alpha * out + sigma * x
    elif kind == "sample":
        x0, noise = out, (x - alpha * out) / sigma
    else:
        x0, noise = x - sigma * out, x + (1 - sigma) * out
    return x0, noise - x0


def states(policy, rollout, batch: SampleBatch):
    return noised(policy, rollout.x0[batch.sample], rollout.cond.seed[batch.sample].tolist(), batch.number, batch.of, batch.key)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize(("beta", "kl"), [(1.0, 0.0), (0.1, 0.0), (0.7, 0.2)])
def test_nft_is_its_formula(parametrization, beta, kl):
    optimizer = Nft(beta=beta, kl=kl, advantage_clip=5.0, draws=3)
    policy, rollout, (batch,) = begin(optimizer, parametrization)
    at = states(policy, rollout, batch)
    old, base_v = ends_in_float64(policy, at)  # the old weights and the base are those of the start
    move(policy, 0.03)
    new, velocity = ends_in_float64(policy, at)
    x0, total = at.x0.double().numpy(), []
    for row, sample in enumerate(batch.sample.tolist()):
        r = min(max(min(max(ADVANTAGE[sample].item(), -5), 5) / 5 / 2 + 0.5, 0), 1)
        terms = []
        for mixed in ((1 - beta) * old[row] + beta * new[row], (1 + beta) * old[row] - beta * new[row]):
            weight = max(np.abs(mixed - x0[row]).mean(), 1e-5)
            terms.append(((mixed - x0[row]) ** 2 / weight).mean())
        total.append(5.0 * (r * terms[0] + (1 - r) * terms[1]) / beta + kl * ((velocity[row] - base_v[row]) ** 2).mean())
    loss, metrics = optimizer.loss(policy, batch)
    assert loss.item() == pytest.approx(np.mean(total), rel=2e-3)
    assert metrics["from_old"].item() == pytest.approx(((new - old) ** 2).mean(), rel=2e-3)
    assert len(batch.sample) == COUNT * 3


def test_mixing_x0_is_mixing_velocities():
    """The paper mixes v; x0 = x - s v on a flow, so the mixture of one is that of the other."""
    optimizer = Nft(beta=0.4, kl=0.0)
    policy, rollout, (batch,) = begin(optimizer, "flow")
    at = states(policy, rollout, batch)
    with torch.no_grad():
        old_v = policy.predict(at.x, at.level, {}).double()
        move(policy, 0.03)
        new_v = policy.predict(at.x, at.level, {}).double()
        old, new = (at.x.double() - at.level.sigma[:, None].double() * v for v in (old_v, new_v))
        positive = at.x.double() - at.level.sigma[:, None].double() * (0.6 * old_v + 0.4 * new_v)
    torch.testing.assert_close(0.6 * old + 0.4 * new, positive)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", {1: 0, 500: 0}),
        ("slow", {1: 0.001, 100: 0.1, 500: 0.5, 9000: 0.5}),
        ("lagged", {1: 0, 75: 0, 76: 0.0075, 175: 0.75, 300: 0.999}),
    ],
)
def test_the_old_weights_follow_by_the_papers_schedules(kind, expected):
    assert {count: pytest.approx(_decay(kind, count)) for count in expected} == expected


def test_the_old_weights_sample_and_follow_after_a_rollout_and_their_state_goes_round():
    optimizer = Nft(decay="slow")
    policy, _, _ = begin(optimizer)
    bias = policy.network.layers[-1].bias
    start = bias.detach().clone()
    move(policy, 0.5)
    with optimizer.acting():
        assert torch.equal(bias, start)
    assert not torch.equal(bias, start)
    optimizer.rollouts = 299
    optimizer.finished()
    expected = 0.3 * start + 0.7 * bias.detach()
    with optimizer.acting():
        torch.testing.assert_close(bias.detach(), expected)
    fresh = Nft(decay="slow")
    fresh.attach(optimizer.weights)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.rollouts == 300 and all(torch.equal(fresh.old[name], value) for name, value in optimizer.old.items())
    with pytest.raises(ValueError, match="decay: 'fast'; expected one of none, slow, lagged"):
        Nft(decay="fast")


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("updated", [False, True])
def test_awm_is_its_formula(parametrization, updated):
    optimizer = Awm(clip=0.05, advantage_clip=4.0, draws=2, kl=0.3)
    policy, rollout, (batch,) = begin(optimizer, parametrization)
    at = states(policy, rollout, batch)
    target = (at.noise - at.x0).double().numpy()
    base = old = ends_in_float64(policy, at)[1]
    move(policy, 0.02)
    if updated:
        optimizer.updated()
    velocity, total = ends_in_float64(policy, at)[1], []
    for row, sample in enumerate(batch.sample.tolist()):
        a = min(max(ADVANTAGE[sample].item(), -4), 4) / 4
        logp, before = (-((v[row] - target[row]) ** 2).mean() for v in (velocity, old))
        rho = math.exp(logp - before) if updated else 1.0
        total.append(max(-a * rho, -a * min(max(rho, 0.95), 1.05)) + 0.3 * ((velocity[row] - base[row]) ** 2).mean())
    loss, metrics = optimizer.loss(policy, batch)
    assert loss.item() == pytest.approx(np.mean(total), rel=2e-3, abs=1e-4)
    assert (metrics["ratio_error"] == 0) != updated


def test_at_ratio_one_awm_is_the_advantage_times_the_matching_loss():
    optimizer = Awm(kl=0.0, advantage_clip=100.0)
    policy, rollout, (batch,) = begin(optimizer, "flow")
    parameters = list(policy.trainable().parameters())
    found = torch.autograd.grad(optimizer.loss(policy, batch)[0], parameters)
    at = states(policy, rollout, batch)
    error = (policy.predict(at.x, at.level, {}) - (at.noise - at.x0)).square().mean(1)
    expected = torch.autograd.grad((ADVANTAGE[batch.sample] / 100 * error).mean(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_noisings_are_spread_over_the_levels_and_belong_to_samples():
    policy = ToyPolicy(parametrization="flow")
    seeds, x0 = list(range(200)), torch.randn(200, 2)
    u = []
    for number in range(4):
        at = noised(policy, x0, seeds, torch.full((200,), number), 4, key=7)
        u.append(at.level.sigma)
        assert number / 4 <= at.level.sigma.min() < number / 4 + 0.02 and number / 4 + 0.23 < at.level.sigma.max() < (number + 1) / 4
        torch.testing.assert_close(at.x, at.level.alpha[:, None] * x0 + at.level.sigma[:, None] * at.noise)
    whole = noised(policy, x0, seeds, torch.full((200,), 2), 4, key=7)
    rows = torch.tensor([5, 150, 3])
    alone = noised(policy, x0[rows], rows.tolist(), torch.full((3,), 2), 4, key=7)
    assert torch.equal(whole.x[rows], alone.x) and torch.equal(whole.level.t[rows], alone.level.t)
    other = noised(policy, x0, seeds, torch.full((200,), 2), 4, key=8)
    assert (
        not torch.equal(whole.noise, other.noise) and abs(torch.corrcoef(torch.stack([whole.noise[:, 0], other.noise[:, 0]]))[0, 1]) < 0.25
    )
    assert abs(whole.noise.mean()) < 0.15 and abs(whole.noise.std() - 1) < 0.15


def test_samples_without_advantage_are_left_out_and_the_shares_of_the_others_stay():
    optimizer = Awm(draws=2)
    _, rollout, _ = begin(optimizer)
    rollout.advantage = torch.tensor([0.0, 1.0, 0.0, 0.0, -1.0, 0.0])
    groups = plan(optimizer, rollout, DDIM(0.0), 3, 1, 5, near)
    assert [sorted({int(batch.sample) for batch in group}) for group in groups] == [[1], [], [4]]
    assert [sum(batch.share for batch in group) for group in groups] == pytest.approx([0.5, 0, 0.5])


@pytest.mark.parametrize("sampler", [DDIM(0.0), DDIM(1.0), Consistency()], ids=["ode", "ddpm", "consistency"])
@pytest.mark.parametrize("last", [1, 3])
def test_direct_is_the_gradient_of_the_reward_through_the_last_steps(sampler, last):
    optimizer = Direct(last)
    policy, rollout, (batch,) = begin(optimizer, sampler=sampler)
    assert isinstance(batch, EndBatch) and rollout.steps.x.shape[1] == last + 1
    parameters = list(policy.trainable().parameters())
    loss, metrics = optimizer.loss(policy, batch)
    expected = -Near()(finish(policy, sampler, rollout, torch.arange(COUNT), last)).mean()
    assert torch.equal(loss, expected) and loss.item() == pytest.approx(-near_of(rollout).mean().item())
    assert metrics["direct_reward"].item() == pytest.approx(near_of(rollout).mean().item())
    for one, other in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other)


def test_a_ceiling_silences_samples_that_are_good_enough():
    optimizer = Direct(1, ceiling=-1.5)
    policy, rollout, (batch,) = begin(optimizer)
    good = near_of(rollout) > -1.5
    assert good.any() and not good.all()
    loss, _ = optimizer.loss(policy, batch)
    assert loss.item() == pytest.approx((-1.5 - near_of(rollout)).clamp(min=0).mean().item(), rel=1e-4)
    rows = torch.nonzero(good).flatten()
    silent = EndBatch(rollout, DDIM(0.0), rows, near, 5, 1.0)
    gradients = torch.autograd.grad(optimizer.loss(policy, silent)[0], list(policy.trainable().parameters()))
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("last", [1, 3])
def test_direct_is_held_to_what_the_base_model_makes_of_the_same_state(last):
    optimizer = Direct(last, kl=0.7)
    policy, rollout, (batch,) = begin(optimizer)
    rows = torch.arange(COUNT)
    base = finish(policy, ODE, rollout, rows, last).detach()  # nothing has been learned, so the weights are still the base model's
    loss, metrics = optimizer.loss(policy, batch)
    assert loss.item() == pytest.approx(-near_of(rollout).mean().item()) and metrics["from_base"] == 0
    move(policy, 0.1, seed=2)
    x0 = finish(policy, ODE, rollout, rows, last)
    loss, metrics = optimizer.loss(policy, batch)
    expected = -Near()(x0).mean() + 0.7 * (x0 - base).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["from_base"].item() == pytest.approx((x0 - base).square().mean().item(), rel=1e-4)
    found, wanted = (torch.autograd.grad(value, policy.network.layers[-1].bias)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="kl: -1; expected 0 or more"):
        Direct(kl=-1)


def test_the_distance_from_the_base_is_taken_in_float32():
    generator = torch.Generator().manual_seed(3)
    base = torch.rand(4000, generator=generator).bfloat16()
    made = (base + 0.1 * torch.randn(4000, generator=generator)).bfloat16().requires_grad_()
    optimizer = Direct(1, kl=0.5)
    loss, held = optimizer.tied(torch.zeros(()), made, base)
    expected = (made.detach().double() - base.double()).square().mean().item()
    assert held["from_base"].dtype == torch.float32 and held["from_base"].item() == pytest.approx(expected, rel=1e-6)
    assert loss.item() == pytest.approx(0.5 * expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, made)
    torch.testing.assert_close(gradient.double(), (made.detach().double() - base.double()) / 4000, rtol=1e-2, atol=0)


def test_alignprop_draws_the_number_of_steps_once_a_pass():
    optimizer = Direct([1, 4])
    policy, rollout, _ = begin(optimizer)
    for key in range(6):
        last = random.Random(key).randint(1, 4)
        batch = EndBatch(rollout, DDIM(0.0), torch.arange(COUNT), near, key, 1.0)
        found = torch.autograd.grad(optimizer.loss(policy, batch)[0], policy.network.layers[-1].bias)[0]
        x0 = finish(policy, DDIM(0.0), rollout, torch.arange(COUNT), last)
        torch.testing.assert_close(found, torch.autograd.grad(-Near()(x0).mean(), policy.network.layers[-1].bias)[0])
    assert len({random.Random(key).randint(1, 4) for key in range(6)}) > 2


def test_the_unit_of_an_advantage_is_the_deviation_that_the_credit_divided_by_in_any_part_of_a_rollout():
    _, rollout, _ = begin(Direct(1))
    reward, group = torch.randn(24, dtype=torch.float64) * 3 + torch.arange(6).repeat_interleave(4), torch.arange(24) // 4
    centred = reward - reward.reshape(6, 4).mean(1).repeat_interleave(4)
    for advantage, expected in (((reward - reward.mean()) / reward.std(correction=0), reward.std(correction=0)), (centred / 2.5, 2.5)):
        for part in (slice(0, 24), slice(8, 16)):
            rollout.reward, rollout.advantage, rollout.cond.group = reward[part].float(), advantage[part].float(), group[part]
            assert _unit(rollout) == pytest.approx(float(expected), rel=1e-5)
    rollout.advantage = torch.zeros(8)
    assert _unit(rollout) == 1


def test_the_two_parts_of_rlcm_direct_add_up_to_the_gradient_of_the_expected_reward():
    """Against the gradient through all steps, which is exact as the toy is differentiable throughout; in their common units."""
    count, steps = 30_000, 3
    policy = ToyPolicy()
    move(policy, 0.02, seed=1)
    optimizer = RlcmDirect(advantage_clip=100.0)
    optimizer.attach(Trainable(policy.trainable(), None))
    rollout = collect(policy, condition(policy, [{"prompt": "p"}] * count), Consistency(), steps)
    rollout.reward = near_of(rollout)
    spread = rollout.reward.std(correction=0)
    rollout.advantage = (rollout.reward - rollout.reward.mean()) / spread
    bias = policy.network.layers[-1].bias
    whole = -Near()(finish(policy, Consistency(), rollout, torch.arange(count), steps)).mean() / (spread * (steps - 1) * 2)
    (expected,) = torch.autograd.grad(whole, bias)
    parts = {"StepBatch": torch.zeros(2), "EndBatch": torch.zeros(2)}
    for batch in plan(optimizer, rollout, Consistency(), 1, count, 0, near)[0]:
        parts[type(batch).__name__] += torch.autograd.grad(optimizer.loss(policy, batch)[0] * batch.share, bias)[0]
    steps_alone, end_alone, both = (
        ((part - expected).norm() / expected.norm()).item() for part in (parts["StepBatch"], parts["EndBatch"], sum(parts.values()))
    )
    assert both < 0.05 and min(steps_alone, end_alone) > 0.1
