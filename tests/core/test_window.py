"""Windows: where they lie, what is stored and what has noise."""

from __future__ import annotations

import pytest
import torch

from tropism.diffusion.flow_samplers import Cps, FlowSde, Ode
from tropism.diffusion.rollout import collect, finish, replay
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.diffusion.window import Window
from tropism.testing import condition
from tropism.toy import ToyPolicy

ITEMS = [{"prompt": "p"}] * 5


@pytest.fixture
def policy():
    made = ToyPolicy()
    torch.nn.init.normal_(made.network.layers[-1].weight, std=0.1)
    return made


def test_a_fixed_window_stays_and_a_progressive_one_moves_and_returns():
    assert {Window(size=2, first=3).at(10, iteration, 0) for iteration in range(50)} == {range(3, 5)}
    moving = Window(size=4, place="progressive", every=25, first=1, last=7)
    assert [moving.at(25, iteration, 9).start for iteration in (0, 24, 25, 50, 74, 75)] == [1, 1, 2, 3, 3, 1]
    assert all(len(moving.at(25, iteration, 0)) == 4 for iteration in range(100))


def test_a_random_window_is_everywhere_equally_often_and_follows_from_seed_and_iteration_alone():
    window = Window(size=2, place="random", first=1, last=8)
    places = [window.at(10, iteration, 3).start for iteration in range(3000)]
    assert set(places) == set(range(1, 7))
    assert all(places.count(place) / 3000 == pytest.approx(1 / 6, abs=0.03) for place in range(1, 7))
    assert [window.at(10, iteration, 3).start for iteration in (700, 5)] == [places[700], places[5]]
    assert places != [window.at(10, iteration, 4).start for iteration in range(3000)]


@pytest.mark.parametrize(
    ("window", "problem"),
    [
        (Window(size=3), None),
        (Window(size=10), None),
        (Window(size=2, last=11), "last is 11, but there are 10 steps"),
        (Window(size=3, first=8), "3 steps from step 8 do not fit before step 10"),
        (Window(size=3, first=2, last=4), "3 steps from step 2 do not fit before step 4"),
    ],
)
def test_a_window_that_does_not_fit_says_why(window, problem):
    assert window.problem(10) == problem


def test_only_the_window_has_noise_and_is_stored(policy):
    cond, sampler = condition(policy, ITEMS), FlowSde()
    whole = collect(policy, cond, Ode(), 8)
    part = collect(policy, cond, sampler, 8, kept=range(3, 5), elsewhere=Ode())
    assert part.steps.x.shape == (5, 3, 2) and part.steps.logp.shape == (5, 2) and part.steps.on.tolist() == [True, True]
    assert part.steps.first == 3 and torch.equal(part.steps.levels.sigma, whole.steps.levels.sigma[3:6])
    assert torch.equal(part.steps.x[:, 0], whole.steps.x[:, 3]), "the ODE before the window"
    x = part.steps.x[:, 2]
    for index in range(5, 8):
        level, then = (whole.steps.levels[number].expand(5) for number in (index, index + 1))
        x = Ode().mean(policy, x, level, then, cond.encoded)
    torch.testing.assert_close(part.x0, x, rtol=1e-5, atol=1e-6)
    for index in range(2):
        assert torch.equal(replay(policy, sampler, part, torch.arange(5), torch.full((5,), index)), part.steps.logp[:, index])
        assert (part.steps.logp[:, index] != 0).all()


def test_noise_elsewhere_gives_the_samples_of_no_window_at_all(policy):
    cond = condition(policy, ITEMS)
    whole = collect(policy, cond, Consistency(), 4)
    part = collect(policy, cond, Consistency(), 4, kept=range(1, 3))
    assert torch.equal(whole.x0, part.x0) and torch.equal(whole.steps.x[:, 1:4], part.steps.x)


def test_a_rollout_that_needs_no_trajectory_keeps_none(policy):
    cond = condition(policy, ITEMS)
    whole = collect(policy, cond, DDIM(1.0), 4)
    bare = collect(policy, cond, DDIM(1.0), 4, kept=range(4, 4))
    assert torch.equal(whole.x0, bare.x0)
    assert bare.steps.x.shape == (5, 0, 2) and bare.steps.logp.shape == (5, 0) and bare.steps.on.shape == (0,)
    joined = type(bare).cat([bare, bare])
    assert len(joined) == 10 and joined.steps.x.numel() == 0


def test_means_are_stored_where_asked_for(policy):
    rollout = collect(policy, condition(policy, ITEMS), DDIM(1.0), 4, means=True)
    steps = rollout.steps
    for index in range(4):
        now, then = steps.levels[index].expand(5), steps.levels[index + 1].expand(5)
        with torch.no_grad():
            assert torch.equal(steps.mean[:, index], DDIM(1.0).mean(policy, steps.x[:, index], now, then, {}))
    assert type(rollout).cat([rollout, rollout]).steps.mean.shape == (10, 4, 2)
    assert collect(policy, condition(policy, ITEMS), DDIM(1.0), 4).steps.mean is None


@pytest.mark.parametrize("sampler", [DDIM(1.0), DDIM(0.0), Consistency(), FlowSde(), Cps(), Ode(2)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("last", [1, 2, 4])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_last_steps_taken_anew_give_the_sample_with_gradient(policy, sampler, last, recompute):
    rollout = collect(policy, condition(policy, ITEMS), sampler, 4, kept=range(4 - last, 4))
    found = finish(policy, sampler, rollout, torch.arange(5), last, recompute=recompute)
    assert torch.equal(found, rollout.x0)
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(finish(policy, sampler, rollout, rows, last), rollout.x0[rows], rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), policy.network.layers[-1].bias)
    assert (gradient != 0).all() and gradient.isfinite().all()


def test_the_gradient_through_the_last_steps_is_that_of_finite_differences(policy):
    sampler = FlowSde()
    rollout = collect(policy, condition(policy, ITEMS), sampler, 5)
    bias = policy.network.layers[-1].bias
    (gradient,) = torch.autograd.grad(finish(policy, sampler, rollout, torch.arange(5), 3).square().sum(), bias)
    for component in range(2):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                bias[component] += sign * 1e-2
                values.append(finish(policy, sampler, rollout, torch.arange(5), 3).double().square().sum().item())
                bias[component] -= sign * 1e-2
        assert gradient[component].item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-2, abs=1e-2)


def test_a_jump_is_the_denoised_state(policy):
    rollout = collect(policy, condition(policy, ITEMS), DDIM(1.0), 5)
    found = finish(policy, DDIM(1.0), rollout, torch.arange(5), 2, jump=True)
    x, level = rollout.steps.x[:, 3], rollout.steps.levels[3]
    noise = policy.predict(x, level.expand(5), {})
    torch.testing.assert_close(found, (x - level.sigma * noise) / level.alpha)
    assert found.requires_grad
