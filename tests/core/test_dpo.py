"""Diffusion-DPO and the kernel of denoising errors against plain float64; its stabilisers; symmetry."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.core.pairs_of_toys import COUNT, PARAMETRIZATIONS, attached, by_differences, float64, log_sigmoid, move, pairs, whole
from tropism.diffusion.noising import Noised
from tropism.optimizers.denoising import WEIGHTINGS, compare, mean_square, residual, safe_scale
from tropism.optimizers.dpo import Dpo
from tropism.types import Level


def states(optimizer, policy, batch):
    return optimizer.noising(policy, batch, batch.pairs.cond.encoded)


def changes(optimizer, policy, batch, weighting="network", scale=0.03):
    """(errors now, errors of the base) in float64 [2 M] each; moves the policy in between."""
    at = states(optimizer, policy, batch)
    base = float64(policy, at)
    move(policy, scale)
    return getattr(float64(policy, at), weighting), getattr(base, weighting)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_dpo_is_its_formula(parametrization, weighting):
    optimizer = Dpo(beta=1.5, draws=3, weighting=weighting, anchor=0.25)
    policy = attached(optimizer, parametrization)
    weight = torch.linspace(0.5, 2, COUNT)
    batch = whole(optimizer, pairs(policy, weight=weight))
    now, base = changes(optimizer, policy, batch, weighting)
    total = []
    for row, pair in enumerate(batch.sample.tolist()):
        d_w, d_l = now[row] - base[row], now[row + 3 * COUNT] - base[row + 3 * COUNT]
        total.append(-weight[pair].item() * log_sigmoid(-0.75 * (d_w - d_l)) + 0.25 * now[row])
    loss, metrics = optimizer.loss(policy, batch)
    assert loss.item() == pytest.approx(np.mean(total), rel=2e-3)
    winner, loser = np.split(now - base, 2)
    assert metrics["winner_change"].item() == pytest.approx(winner.mean(), rel=1e-2, abs=1e-5)
    assert metrics["loser_change"].item() == pytest.approx(loser.mean(), rel=1e-2, abs=1e-5)
    assert metrics["winner_error"].item() == pytest.approx(np.split(now, 2)[0].mean(), rel=1e-3)
    assert metrics["loser_error"].item() == pytest.approx(np.split(now, 2)[1].mean(), rel=1e-3)
    assert metrics["implicit_accuracy"].item() == pytest.approx((winner < loser).mean(), abs=0.1)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_weightings_differ_by_a_factor_of_the_level_alone(parametrization):
    policy = attached(Dpo(), parametrization)
    alpha, sigma = 0.6, 0.4 if parametrization == "flow" else 0.8
    level = Level(*(torch.full((4,), value) for value in (0.0, alpha, sigma)))
    x0, noise = torch.randn(4, 2), torch.randn(4, 2)
    at = Noised(level, alpha * x0 + sigma * noise, x0, noise)
    error = {name: mean_square(residual(policy, at, {}, name)) for name in WEIGHTINGS}
    torch.testing.assert_close(error["sample"], (sigma / alpha) ** 2 * error["noise"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(error["velocity"], ((alpha + sigma) / alpha) ** 2 * error["noise"], rtol=1e-4, atol=1e-6)
    own = {"epsilon": "noise", "sample": "sample", "flow": "velocity"}.get(parametrization)
    if own is None:
        torch.testing.assert_close(error["network"], error["noise"] / alpha**2, rtol=1e-4, atol=1e-6)
    else:
        assert torch.equal(error["network"], error[own])


def test_at_the_start_the_loss_is_ln_2_and_the_gradient_that_of_the_errors():
    """Policy = reference: loss ln 2, accuracy a half, gradient beta / 4 times that of e_w - e_l, bit by bit no change."""
    optimizer = Dpo(beta=3.0, draws=2)
    policy = attached(optimizer)
    batch = whole(optimizer, pairs(policy))
    loss, metrics = optimizer.loss(policy, batch)
    assert loss.item() == pytest.approx(math.log(2)) and metrics["implicit_accuracy"] == 0.5 and metrics["winner_change"] == 0
    parameters = list(policy.trainable().parameters())
    found = torch.autograd.grad(loss, parameters)
    at = states(optimizer, policy, batch)
    winner, loser = mean_square(residual(policy, at, {})).chunk(2)
    for one, other in zip(found, torch.autograd.grad(3.0 / 4 * (winner - loser).mean(), parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", [Dpo(beta=2.0), Dpo(beta=2.0, noise="own", anchor=0.5), Dpo(beta=2.0, average=0.9)])
def test_the_gradient_is_that_of_the_loss(optimizer):
    policy = attached(optimizer, "flow")
    batch = whole(optimizer, pairs(policy))
    move(policy, 0.03)
    exact, differences = by_differences(policy, lambda: optimizer.loss(policy, batch)[0])
    assert abs(exact) > 1e-2 and exact == pytest.approx(differences, rel=1e-2)


def test_turning_all_labels_round_turns_the_argument_of_the_sigmoid():
    optimizer = Dpo(beta=2.0)
    policy = attached(optimizer)
    record = pairs(policy)
    turned = replace(record, winner=record.loser, loser=record.winner)
    move(policy, 0.03)
    first, second = (optimizer.loss(policy, whole(optimizer, one))[1] for one in (record, turned))
    assert first["winner_error"] == pytest.approx(second["loser_error"].item(), rel=1e-5)
    assert first["implicit_accuracy"] + second["implicit_accuracy"] == pytest.approx(1)
    for row in range(COUNT):  # each alone: -log sigmoid(z) - (-log sigmoid(-z)) = -z
        z = []
        for one in (record, turned):
            weight = torch.zeros(COUNT)
            weight[row] = 1
            optimizer.draws = 1
            z.append(optimizer.loss(policy, whole(optimizer, replace(one, weight=weight)))[0].item())
        assert math.exp(-z[0]) + math.exp(-z[1]) == pytest.approx(1, rel=1e-4)


def test_winner_and_loser_share_level_and_noise_or_only_the_level():
    policy = attached(Dpo())
    record = pairs(policy)
    for kind in ("shared", "own"):
        optimizer = Dpo(noise=kind)
        at = states(optimizer, policy, whole(optimizer, record))
        half = len(at.x) // 2
        assert torch.equal(at.level.t[:half], at.level.t[half:]) and at.level.t[:half].unique().numel() > 5
        assert torch.equal(at.noise[:half], at.noise[half:]) == (kind == "shared")
        again = optimizer.noising(policy, whole(optimizer, record), {})
        assert torch.equal(at.x, again.x)
        alpha, sigma = at.level.alpha[:, None], at.level.sigma[:, None]
        torch.testing.assert_close(at.x, alpha * torch.cat([record.winner.repeat(4, 1), record.loser.repeat(4, 1)]) + sigma * at.noise)


def test_pairs_without_weight_are_left_out_and_the_shares_of_the_others_stay():
    optimizer = Dpo(beta=2.0, draws=2)
    policy = attached(optimizer)
    weight = torch.tensor([1.0, 0, 1, 0, 0])
    batch = whole(optimizer, pairs(policy, weight=weight))
    assert sorted(batch.sample.tolist()) == [0, 0, 2, 2] and batch.share == pytest.approx(2 / 5)


def test_a_region_is_all_that_is_compared():
    """With labels 0 and 1 on the two coordinates of the toy: masked DPO."""
    optimizer = Dpo(beta=2.0, draws=1)
    policy = attached(optimizer)
    segments = torch.tensor([[1.0, 0.0]] * COUNT)
    batch = whole(optimizer, pairs(policy, segments=segments))
    at = states(optimizer, policy, batch)
    base = float64(policy, at).off["network"][:, 0] ** 2
    move(policy, 0.03)
    now = float64(policy, at).off["network"][:, 0] ** 2
    winner, loser = np.split(now - base, 2)
    assert optimizer.loss(policy, batch)[0].item() == pytest.approx(-log_sigmoid(-(winner - loser)).mean(), rel=1e-3)


def test_the_safe_scale_keeps_the_winner_from_getting_worse():
    generator = torch.Generator().manual_seed(0)
    winner, loser = torch.randn(400, 6, generator=generator), 3 * torch.randn(400, 6, generator=generator)
    for keep in (0.1, 0.9):
        scale = safe_scale(winner, loser, None, keep)
        fall = ((winner - scale[:, None] * loser) * winner).sum(1) / winner.square().sum(1)
        assert (fall >= keep - 1e-5).all() and scale.min() >= 0 and scale.max() == 1
        assert ((scale < 1) == (fall < keep + 1e-5)).all(), "it shrinks no more than it must"
    region = torch.tensor([1.0, 1, 1, 0, 0, 0])
    torch.testing.assert_close(safe_scale(winner, loser, region[None], 0.5), safe_scale(winner[:, :3], loser[:, :3], None, 0.5))


def test_with_keep_the_loss_is_the_same_and_the_gradient_of_the_loser_is_scaled():
    plain, safe = Dpo(beta=2.0, draws=1), Dpo(beta=2.0, draws=1, keep=0.9)
    policy = attached(plain)
    safe.attach(plain.weights)
    batch = whole(plain, pairs(policy))
    move(policy, 0.05)
    at = states(plain, policy, batch)
    assert plain.loss(policy, batch)[0].item() == pytest.approx(safe.loss(policy, batch)[0].item())
    fit = compare(policy, plain.as_reference(), at, {}, keep=0.9)
    off_w, off_l = residual(policy, at, {}).detach().chunk(2)
    expected = safe_scale(off_w, off_l, None, 0.9)
    assert torch.equal(fit.rescaled, expected) and (expected < 1).any()
    parameters = list(policy.trainable().parameters())
    found = torch.autograd.grad(fit.loser.sum(), parameters)
    other = torch.autograd.grad((expected * mean_square(residual(policy, at, {})).chunk(2)[1]).sum(), parameters)
    for one, two in zip(found, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_the_average_is_the_reference_and_goes_round():
    optimizer = Dpo(average=0.75)
    policy = attached(optimizer)
    bias = policy.network.layers[-1].bias
    start = bias.detach().clone()
    move(policy, 0.5)
    optimizer.updated()
    expected = 0.75 * start + 0.25 * bias.detach()
    with optimizer.as_reference():
        torch.testing.assert_close(bias.detach(), expected)
    fresh = Dpo(average=0.75)
    fresh.attach(optimizer.weights)
    fresh.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(fresh.mean[name], value) for name, value in optimizer.mean.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weighting": "noises"}, "weighting: 'noises'; expected one of network, noise, velocity, sample"),
        ({"noise": "other"}, "noise: 'other'; expected 'shared' or 'own'"),
        ({"beta": 0}, "beta: 0; expected above 0"),
        ({"keep": 1.5}, "keep: 1.5; expected above 0 and below 1"),
        ({"average": 1.0}, "average: 1.0; expected above 0 and below 1"),
    ],
)
def test_options_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Dpo(**arguments)
