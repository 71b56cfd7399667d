"""SPO: chains that branch at every step, the loss in float64, one forward for winner and loser, and what a reward may know of the noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.core.pairs_of_toys import by_differences, log_sigmoid, move
from tropism import api, assemble, plugins
from tropism.diffusion.branching import branch, branches
from tropism.diffusion.flow_samplers import FlowSde, Ode
from tropism.diffusion.rollout import replay
from tropism.diffusion.samplers import DDIM
from tropism.errors import RecipeError
from tropism.judges import BestWorst
from tropism.optimizers.base import StepPairBatch, plan
from tropism.optimizers.spo import Spo
from tropism.policies.adapters import Trainable
from tropism.rewards.base import fields
from tropism.testing import condition
from tropism.toy import Near, ToyPolicy
from tropism.types import Rollout

CHAINS, SIZE, STEPS = 3, 4, 5
NOISY = STEPS - 1  # DDIM's last step has no noise


def conditions(policy, chains: int = CHAINS):
    return condition(policy, [{"prompt": "p"}] * chains * SIZE, seed=40, group=SIZE)


def begin(optimizer, parametrization: str = "epsilon", sampler=None):
    """(policy, rollout, its batch), with a policy whose base is not the exact one."""
    policy, sampler = ToyPolicy(parametrization=parametrization), sampler or DDIM(1.0)
    move(policy, 0.02, seed=1)
    optimizer.attach(Trainable(policy.trainable(), None))
    return policy, *made(optimizer, policy, sampler)


def made(optimizer, policy, sampler=None, micro: int = 1000):
    sampler = sampler or DDIM(1.0)
    rollout = branch(policy, conditions(policy), sampler, STEPS, kept=optimizer.kept(STEPS))
    rollout.reward = Near()(rollout.x0)
    rollout.couples = BestWorst().couples(rollout)
    return rollout, plan(optimizer, rollout, sampler, 1, micro, 5, lambda _: None)[0]


def test_candidates_of_a_step_begin_at_one_state_and_one_of_them_goes_on():
    policy = ToyPolicy()
    rollout = branch(policy, conditions(policy), DDIM(1.0), STEPS, kept=range(STEPS))
    assert len(rollout) == CHAINS * NOISY * SIZE and rollout.steps.x.shape == (len(rollout), 2, 2)
    states = rollout.steps.x.view(CHAINS, NOISY, SIZE, 2, 2)
    assert (states[:, :, :, 0] == states[:, :, :1, 0]).all(), "one state for all candidates"
    assert states[:, :, :, 1].flatten(0, 2).unique(dim=0).shape[0] == len(rollout), "each with noise of its own"
    went_on = (states[:, 1:, :1, 0] == states[:, :-1, :, 1]).all(-1)
    assert (went_on.sum(-1) == 1).all(), "the next step begins at one of them"
    assert rollout.steps.at.view(CHAINS, NOISY, SIZE).tolist() == [[[step] * SIZE for step in range(NOISY)]] * CHAINS
    assert rollout.cond.group.view(-1, SIZE).unique(dim=1).flatten().unique().numel() == CHAINS * NOISY
    assert rollout.cond.seed.unique().numel() == len(rollout)


def test_which_goes_on_is_drawn_evenly():
    policy, chains = ToyPolicy(), 400
    states = branch(policy, conditions(policy, chains), DDIM(1.0), 3, kept=range(3)).steps.x.view(chains, 2, SIZE, 2, 2)
    picked = (states[:, 1, :1, 0] == states[:, 0, :, 1]).all(-1).float().mean(0)
    torch.testing.assert_close(picked, torch.full((SIZE,), 0.25), atol=4 * math.sqrt(0.25 * 0.75 / chains), rtol=0)


@pytest.mark.parametrize(("parametrization", "sampler"), [("epsilon", DDIM(1.0)), ("flow", FlowSde()), ("v_prediction", DDIM(0.7))])
def test_log_probabilities_and_promised_samples_are_those_of_the_states(parametrization, sampler):
    policy, rollout, _ = begin(Spo(), parametrization, sampler)
    rows = torch.arange(len(rollout))
    with torch.no_grad():
        again = replay(policy, sampler, rollout, rows, torch.zeros_like(rows))
    torch.testing.assert_close(again[:, None], rollout.steps.logp, rtol=1e-4, atol=1e-4)
    for row in range(0, len(rollout), 7):
        level = rollout.steps.levels[rollout.steps.at[row] + 1].expand(1)
        x = rollout.steps.x[row, 1:].double()
        with torch.no_grad():
            out = policy.predict(x.float(), level, {}).double()
        alpha, sigma = level.alpha.double(), level.sigma.double()
        x0 = {"epsilon": (x - sigma * out) / alpha, "flow": x - sigma * out, "v_prediction": alpha * x - sigma * out}[parametrization]
        torch.testing.assert_close(rollout.x0[row].double(), x0[0], rtol=1e-4, atol=1e-4)


def test_a_chain_is_the_same_whatever_it_is_batched_with():
    policy, cond = ToyPolicy(), conditions(ToyPolicy())
    whole = branch(policy, cond, DDIM(1.0), STEPS, kept=range(1, STEPS))
    parts = [branch(policy, cond.slice(b, b + SIZE), DDIM(1.0), STEPS, kept=range(1, STEPS)) for b in range(0, len(cond), SIZE)]
    joined = Rollout.cat(parts)
    assert torch.equal(joined.cond.seed, whole.cond.seed) and torch.equal(joined.cond.group, whole.cond.group)
    assert torch.equal(joined.steps.at, whole.steps.at)
    torch.testing.assert_close(joined.x0, whole.x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(joined.steps.x, whole.steps.x, rtol=1e-5, atol=1e-5)


def test_steps_that_do_not_branch_are_taken_once_for_a_chain_and_none_after_the_last_that_does(monkeypatch):
    policy, calls = ToyPolicy(), []
    predict = policy.predict
    monkeypatch.setattr(policy, "predict", lambda x, level, cond: calls.append(len(x)) or predict(x, level, cond))
    rollout = branch(policy, conditions(policy), FlowSde(), 6, kept=range(2, 4), elsewhere=Ode())
    assert calls == [CHAINS, CHAINS, *[CHAINS, CHAINS * SIZE] * 2]
    assert rollout.steps.at.unique().tolist() == [2, 3]


def test_branches_of_conditions_are_groups_of_their_own():
    cond = conditions(ToyPolicy(), 2)
    found = branches(cond, 3)
    assert len(found) == 24 and found.group.view(-1, SIZE)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert branches(cond, 1) is cond
    uneven = cond.slice(0, 6)
    with pytest.raises(ValueError, match="are not whole groups of 4 in a row"):
        branches(uneven, 2)


@pytest.mark.parametrize("sides", ["both", "one"])
@pytest.mark.parametrize("parametrization", ["epsilon", "flow"])
def test_spo_is_its_formula(sides, parametrization):
    optimizer = Spo(beta=3.0, clip=0.03, sides=sides, anchor=0.2)
    policy, rollout, (batch,) = begin(optimizer, parametrization)
    assert isinstance(batch, StepPairBatch) and len(batch.winner) == CHAINS * NOISY
    assert torch.equal(rollout.steps.at[batch.winner], rollout.steps.at[batch.loser])
    move(policy, 0.1)

    def density(row: int) -> float:
        """The mean log-density of a candidate's step, from the posterior of DDIM with eta 1 in float64."""
        at = rollout.steps.at[row]
        now, then = rollout.steps.levels[at], rollout.steps.levels[at + 1]
        (alpha, sigma), (alpha_then, sigma_then) = ((level.alpha.item(), level.sigma.item()) for level in (now, then))
        x, x_next = rollout.steps.x[row].double().numpy()
        with torch.no_grad():
            out = policy.predict(rollout.steps.x[row, :1], now.expand(1), {})[0].double().numpy()
        x0, noise = (x - sigma * out, x + (1 - sigma) * out) if parametrization == "flow" else ((x - sigma * out) / alpha, out)
        variance = (sigma_then / sigma) ** 2 * (1 - (alpha / alpha_then) ** 2)
        mean = alpha_then * x0 + math.sqrt(max(sigma_then**2 - variance, 0)) * noise
        return float(np.mean(-((x_next - mean) ** 2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)))

    total = []
    for winner, loser in zip(batch.winner.tolist(), batch.loser.tolist(), strict=True):
        change = [density(row) - rollout.steps.logp[row, 0].double().item() for row in (winner, loser)]
        low, high = math.log(0.97), math.log(1.03)
        held = [
            min(max(change[0], low if sides == "both" else -math.inf), high),
            min(max(change[1], low), high if sides == "both" else math.inf),
        ]
        total.append(-log_sigmoid(3.0 * (held[0] - held[1])) - 0.2 * change[0])
    loss, metrics = optimizer.loss(policy, batch)
    assert loss.item() == pytest.approx(np.mean(total), rel=1e-3)
    assert 0 < metrics["clamped"] < 1


def test_winner_and_loser_cost_one_forward(monkeypatch):
    policy, _, (batch,) = begin(Spo())
    calls = []
    predict = policy.predict
    monkeypatch.setattr(policy, "predict", lambda x, level, cond: calls.append(len(x)) or predict(x, level, cond))
    optimizer = Spo()
    optimizer.attach(Trainable(policy.trainable(), None))
    _, metrics = optimizer.loss(policy, batch)
    assert calls == [len(batch.winner)] and metrics["ratio_error"] < 1e-4


def test_the_gradient_is_that_of_the_loss():
    optimizer = Spo(beta=5.0, clip=0.9, sides="one", anchor=0.3)
    policy, _, (batch,) = begin(optimizer)
    move(policy, 0.01)
    exact, differences = by_differences(policy, lambda: optimizer.loss(policy, batch)[0], 5e-4)
    assert abs(exact) > 1e-2 and exact == pytest.approx(differences, rel=2e-2)


def test_keep_leaves_the_winner_its_share_of_the_gain():
    """A small step along the gradient with respect to the step's mean raises the winner's density by at least ``keep`` of what the winner
    alone would have gained."""
    gains = {}
    for keep in (None, 0.5):
        optimizer = Spo(beta=1.0, clip=0.9, keep=keep)
        policy, rollout, (batch,) = begin(optimizer)
        sampler = _Nudged(batch)
        pushed = StepPairBatch(rollout, sampler, batch.winner, batch.loser, batch.weight, batch.index, 1.0)
        (gradient,) = torch.autograd.grad(optimizer.loss(policy, pushed)[0], sampler.nudge)
        winner = rollout.steps.x[batch.winner, 1] - sampler.last
        own = winner.square().sum(1)
        size = (gradient * winner).sum(1).abs().max() / own.max()
        gains[keep] = (-(gradient * winner).sum(1) / own / size, own)
    scale = torch.isclose(gains[None][0], gains[0.5][0], rtol=1e-3)
    assert (gains[None][0] < 0).any(), "without it, some winners become less likely"
    assert (gains[0.5][0] > 0).all() and not scale.all()


class _Nudged:
    """DDIM with something added to its means, of which the gradient is taken."""

    def __init__(self, batch):
        self.nudge = torch.zeros(len(batch.winner), 2, requires_grad=True)

    def deviation(self, now, then):
        return DDIM(1.0).deviation(now, then)

    def mean(self, policy, x, now, then, cond):
        self.last = DDIM(1.0).mean(policy, x, now, then, cond).detach()
        return self.last + self.nudge


def test_a_reward_may_know_the_time_of_the_state_that_a_sample_was_predicted_from():
    _, rollout, _ = begin(Spo())
    assert torch.equal(fields(rollout)["t"], rollout.steps.levels.t[rollout.steps.at + 1])
    assert fields(rollout)["t"].unique().numel() == NOISY


def test_shares_add_up_and_updates_have_chains_of_their_own():
    optimizer = Spo(skip=1)
    _, rollout, _ = begin(optimizer)
    assert rollout.steps.at.min() == 1
    rollout.couples.weight[0] = 0
    pairs = CHAINS * (NOISY - 1)
    for micro in (1, 2, 5, 1000):
        (group,) = plan(optimizer, rollout, DDIM(1.0), 1, micro, 5, lambda _: None)
        assert sum(batch.share for batch in group) == pytest.approx((pairs - 1) / pairs)
    cut = plan(optimizer, rollout, DDIM(1.0), CHAINS, 1000, 5, lambda _: None)
    rows = len(rollout) // CHAINS
    for number, group in enumerate(cut):
        assert all(((batch.sample // rows) == number).all() for batch in group)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spo(skip=-1), "skip: -1, keep: None; expected skip of 0 or more and keep between 0 and 1"),
        (lambda: Spo(keep=1.0), r"keep: 1\.0; expected"),
        (lambda: Spo(skip=4).kept(5), "skip: 4 of 5 steps leaves none to learn from; expected at most 3"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_window_is_refused_since_it_has_its_own_steps():
    with pytest.raises(RecipeError, match="'spo' branches at all noisy steps but those that it skips; leave the window out"):
        _, catalog = plugins.manager()
        assemble.check(api.load_recipe("toy/spo", catalog, ["rollout.window={size: 1, place: random}"])[0], catalog)


def test_steps_without_noise_cannot_branch():
    policy = ToyPolicy()
    with pytest.raises(ValueError, match="none of the 4 steps that are kept"):
        branch(policy, condition(policy, [{"prompt": "p"}] * 4, 0, 4), DDIM(1.0), 4, kept=range(3, 4))
