"""Inversion, InPO and SmPO: round trips, the loss in float64, levels of the grid, and pairs that count as their probability says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.core.pairs_of_toys import COUNT, PARAMETRIZATIONS, attached, by_differences, float64, log_sigmoid, move, pairs, whole
from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.inversion import invert
from tropism.diffusion.noise import Draw
from tropism.diffusion.samplers import DDIM
from tropism.optimizers.dpo import Dpo
from tropism.optimizers.inpo import Inpo
from tropism.optimizers.smpo import Smpo
from tropism.policies.adapters import Trainable
from tropism.toy import ToyPolicy
from tropism.types import Level

CPU = torch.device("cpu")


def grid_of(policy, steps: int):
    return policy.schedule.draw((torch.arange(steps) + 0.5) / steps)


def back(policy, x, grid, count: int):
    """The ODE from level ``count - 1`` of the grid to the clean sample."""
    clean = Level(torch.zeros(1), torch.ones(1), torch.zeros(1))
    levels = [grid[index : index + 1] for index in reversed(range(count))] + [clean]
    for now, then in zip(levels[:-1], levels[1:], strict=True):
        x = Ode().mean(policy, x, now.expand(len(x)), then.expand(len(x)), {})
    return x.detach()


def gap(policy, steps: int, corrections: int) -> float:
    torch.manual_seed(0)
    centres = policy.network.get_buffer("centres")
    x0 = centres + 0.2 * torch.randn(centres.shape)
    grid, count = grid_of(policy, steps), int(steps * 0.8)
    x = invert(policy, x0, {}, grid, torch.full((len(x0),), count), corrections=corrections)
    return (back(policy, x, grid, count) - x0).norm(dim=1).mean().item()


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_the_round_trip_closes_with_finer_grids_and_with_corrections(parametrization):
    policy = ToyPolicy(parametrization=parametrization)
    coarse, fine, finer = (gap(policy, steps, 0) for steps in (10, 50, 100))
    assert finer < fine < coarse and finer < 0.05, (coarse, fine, finer)
    assert gap(policy, 50, 1) < 0.6 * fine
    assert gap(policy, 50, 6) < gap(policy, 50, 1)


def test_inversion_is_its_formula_and_each_row_takes_its_own_steps():
    policy = ToyPolicy()
    x0, grid = 2 * torch.randn(4, 2, generator=torch.Generator().manual_seed(1)), grid_of(policy, 6)
    count = torch.tensor([0, 1, 6, 3])
    found = invert(policy, x0, {}, grid, count)
    for row, steps in enumerate(count.tolist()):
        x, alpha, sigma = x0[row].double(), 1.0, 0.0
        for index in range(steps):
            with torch.no_grad():
                eps = policy.predict(x[None].float(), grid[index].expand(1), {})[0].double()
            clean, alpha, sigma = (x - sigma * eps) / alpha, grid.alpha[index].item(), grid.sigma[index].item()
            x = alpha * clean + sigma * eps
        torch.testing.assert_close(found[row].double(), x, rtol=1e-3, atol=1e-4)
    assert torch.equal(found[0], x0[0])


class Spy(ToyPolicy):
    """A toy with guidance that only sampling may see; it counts who asks for what."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = {"predict": 0, "unguided": 0}

    def predict(self, x, level, cond):
        self.asked["predict"] += 1
        return 3 * super().predict(x, level, cond)

    def unguided(self, x, level, cond):
        self.asked["unguided"] += 1
        return super().predict(x, level, cond)


@pytest.mark.parametrize("optimizer", [Inpo(by="reference"), Smpo()], ids=["inpo", "smpo with corrections"])
def test_a_policy_that_tells_guidance_apart_is_inverted_without_it(optimizer):
    spy, plain = Spy(), ToyPolicy()
    losses = []
    for policy in (spy, plain):
        optimizer.attach(Trainable(policy.trainable(), None))
        losses.append(optimizer.loss(policy, whole(optimizer, pairs(policy)))[0])
    assert spy.asked["predict"] == 0 < spy.asked["unguided"]
    assert torch.equal(*losses)


def test_the_stochastic_term_is_that_of_a_ddpm_step_and_belongs_to_rows():
    policy = ToyPolicy()
    grid, x0 = grid_of(policy, 5), torch.zeros(4000, 2)
    seeds = list(range(4000))
    count = torch.ones(4000, dtype=torch.long)
    plain = invert(policy, x0, {}, grid, count)
    noisy = invert(policy, x0, {}, grid, count, eta=0.5, draw=Draw(seeds, CPU))
    assert (noisy - plain).std().item() == pytest.approx(0.5 * DDIM(1.0).deviation(grid[1], grid[0]).item(), rel=0.05)
    some = invert(policy, x0[7:9], {}, grid, count[7:9], eta=0.5, draw=Draw(seeds[7:9], CPU))
    torch.testing.assert_close(some, noisy[7:9])


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("by", ["policy", "reference"])
def test_inpo_exact_is_dpo_at_inverted_states_with_the_noise_that_leads_back(parametrization, by):
    optimizer = Inpo(beta=2.0, draws=3, steps=6, by=by)
    policy = attached(optimizer, parametrization)
    base = attached(Inpo(), parametrization)
    batch = whole(optimizer, pairs(policy))
    move(policy, 0.03)
    at = optimizer.noising(policy, batch, {})
    grid = grid_of(policy, 6)
    count = torch.searchsorted(grid.sigma, at.level.sigma) + 1
    assert torch.equal(grid.sigma[count - 1], at.level.sigma) and torch.equal(count[: 3 * COUNT], count[3 * COUNT :])
    clean = torch.cat([batch.pairs.winner[batch.sample], batch.pairs.loser[batch.sample]])
    torch.testing.assert_close(at.x, invert(policy if by == "policy" else base, clean, {}, grid, count), rtol=1e-4, atol=1e-4)
    alpha, sigma = at.level.alpha[:, None], at.level.sigma[:, None]
    torch.testing.assert_close((at.x - sigma * at.noise) / alpha, clean, rtol=1e-3, atol=1e-3)
    change = float64(policy, at).network - float64(base, at).network
    winner, loser = np.split(change, 2)
    assert optimizer.loss(policy, batch)[0].item() == pytest.approx(-log_sigmoid(-(winner - loser)).mean(), rel=2e-3)


def test_compat_takes_the_last_state_of_the_grid_below_t_as_if_it_were_at_t():
    optimizer = Inpo(mode="compat", steps=10, draws=4)
    policy = attached(optimizer)
    at = optimizer.noising(policy, whole(optimizer, pairs(policy)), {})
    times = at.level.t.long()
    assert times.unique().numel() > 10 and (times % 10 != 0).any(), "t is any of the hundred"
    grid = policy.schedule.at(torch.arange(10) * 10)
    batch = whole(optimizer, pairs(policy))
    clean = torch.cat([batch.pairs.winner[batch.sample], batch.pairs.loser[batch.sample]])
    count = torch.ceil((times.double() + 1e-6) / 10).long()
    torch.testing.assert_close(at.x, invert(policy, clean, {}, grid, count), rtol=1e-4, atol=1e-4)
    alpha, sigma = at.level.alpha[:, None], at.level.sigma[:, None]
    torch.testing.assert_close(at.noise, (at.x - alpha * clean) / sigma, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("optimizer", [Inpo(draws=2), Inpo(draws=2, mode="compat", eta=0.1), Smpo(draws=2)])
def test_states_do_not_depend_on_the_batch(optimizer):
    policy = attached(optimizer, "flow")
    record = pairs(policy)
    at = optimizer.noising(policy, whole(optimizer, record), {})
    batch = whole(optimizer, record)
    one = replace(batch, sample=batch.sample[3:4], number=batch.number[3:4])
    alone = optimizer.noising(policy, one, {})
    torch.testing.assert_close(alone.x, at.x[[3, 3 + 2 * COUNT]])


def test_the_gradient_is_that_of_the_loss_and_the_inversion_has_none():
    optimizer = Inpo(beta=2.0, by="reference", keep=None)
    policy = attached(optimizer, "flow")
    batch = whole(optimizer, pairs(policy))
    move(policy, 0.03)
    exact, differences = by_differences(policy, lambda: optimizer.loss(policy, batch)[0])
    assert abs(exact) > 1e-2 and exact == pytest.approx(differences, rel=1e-2)
    assert not Inpo().noising(policy, batch, {}).x.requires_grad


@pytest.mark.parametrize("parametrization", ["epsilon", "flow"])
def test_smpo_is_its_formula(parametrization):
    optimizer = Smpo(beta=0.3, draws=2)
    policy = attached(optimizer, parametrization)
    batch = whole(optimizer, pairs(policy))
    at = optimizer.noising(policy, batch, {})
    base = float64(policy, at).network
    optimizer.by = "reference"  # so that the states stay
    move(policy, 0.03)
    winner, loser = np.split(float64(policy, at).network - base, 2)
    p = np.linspace(0.6, 1, COUNT)[batch.sample.numpy()]
    expected = -log_sigmoid(-0.15 * (2 * p - 1) * 10 * (winner - loser))
    assert optimizer.loss(policy, batch)[0].item() == pytest.approx(expected.mean(), rel=2e-3)
    clean = torch.cat([batch.pairs.winner[batch.sample], batch.pairs.loser[batch.sample]])
    grid = grid_of(policy, 5)
    corrected = invert(
        attached(Smpo(), parametrization), clean, {}, grid, torch.searchsorted(grid.sigma, at.level.sigma) + 1, corrections=1
    )
    torch.testing.assert_close(at.x, corrected, rtol=1e-4, atol=1e-4)


def test_a_pair_that_might_as_well_be_the_other_way_round_teaches_nothing():
    optimizer = Smpo(beta=2.0)
    policy = attached(optimizer)
    batch = whole(optimizer, pairs(policy, chance=torch.full((COUNT,), 0.5)))
    move(policy, 0.03)
    gradients = torch.autograd.grad(optimizer.loss(policy, batch)[0], list(policy.trainable().parameters()))
    assert all((gradient == 0).all() for gradient in gradients)


def test_inverted_states_are_what_the_network_knows():
    """Of samples of the model, the error at inverted states is far below that at random noise: no level teaches by luck."""
    optimizer, plain = Inpo(steps=20, draws=8), Dpo(draws=8)
    policy = ToyPolicy()
    for one in (optimizer, plain):
        one.attach(Trainable(policy.trainable(), None))
    centres = policy.network.get_buffer("centres")
    record = replace(pairs(policy, 8), winner=centres.clone(), loser=centres.roll(1, 0))
    inverted, random = (float64(policy, one.noising(policy, whole(one, record), {})).network.mean() for one in (optimizer, plain))
    assert inverted < 0.3 * random, (inverted, random)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "exakt"}, "mode: 'exakt'; expected 'exact' or 'compat'"),
        ({"by": "base"}, "by: 'base'; expected 'policy' or 'reference'"),
        ({"steps": 0}, "steps: 0, eta"),
    ],
)
def test_options_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Inpo(**arguments)
