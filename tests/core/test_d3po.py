"""D3PO against its formula in float64, its clamps, its reference, and the first noise that siblings share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.core.pairs_of_toys import by_differences, log_sigmoid, move
from tropism.diffusion.rollout import collect, replay
from tropism.diffusion.samplers import DDIM
from tropism.judges import AllPairs
from tropism.optimizers.base import StepPairBatch, plan
from tropism.optimizers.d3po import D3po
from tropism.policies.adapters import Trainable
from tropism.testing import condition
from tropism.toy import Near, ToyPolicy

COUNT, STEPS = 6, 4


def begin(optimizer):
    policy = ToyPolicy()
    move(policy, 0.02, seed=1)
    optimizer.attach(Trainable(policy.trainable(), None))
    return policy, *made(optimizer, policy)


def made(optimizer, policy, micro: int = 1000):
    """A rollout with its judge's pairs, and its batch."""
    start = [5] * 3 + [6] * 3
    rollout = collect(policy, condition(policy, [{"prompt": "p"}] * COUNT, group=3), DDIM(1.0), STEPS, start=start)
    rollout.reward = Near()(rollout.x0)
    rollout.couples = AllPairs().couples(rollout)
    return rollout, plan(optimizer, rollout, DDIM(1.0), 1, micro, 5, lambda _: None)[0]


def test_siblings_begin_with_one_noise_and_differ_by_their_steps():
    _, rollout, _ = begin(D3po())
    first = rollout.steps.x[:, 0]
    assert torch.equal(first[0], first[1]) and torch.equal(first[3], first[5]) and not torch.equal(first[0], first[3])
    assert rollout.x0.unique(dim=0).shape[0] == COUNT
    plain = collect(ToyPolicy(), rollout.cond, DDIM(1.0), STEPS)
    shared = collect(ToyPolicy(), rollout.cond, DDIM(1.0), STEPS, start=[5] * COUNT)
    policy = ToyPolicy()
    for made_so in (plain, shared):  # the noise of the steps is the sample's own either way
        levels = made_so.steps.levels
        mean = DDIM(1.0).mean(policy, made_so.steps.x[:, 0], levels[0].expand(COUNT), levels[1].expand(COUNT), {})
        made_so.reward = ((made_so.steps.x[:, 1] - mean) / DDIM(1.0).deviation(levels[0], levels[1])).detach()
    torch.testing.assert_close(plain.reward, shared.reward, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sides", ["both", "one"])
@pytest.mark.parametrize("reference", ["base", "rollout"])
def test_d3po_is_its_formula(sides, reference):
    optimizer = D3po(beta=0.7, clip=0.1, sides=sides, reference=reference)
    policy, rollout, (batch,) = begin(optimizer)
    assert isinstance(batch, StepPairBatch) and len(batch.winner) == 6 * rollout.steps.on.sum()
    acted = rollout.steps.logp.double().numpy()
    move(policy, 0.05)
    total, gaps = [], []
    for winner, loser, index in zip(batch.winner.tolist(), batch.loser.tolist(), batch.index.tolist(), strict=True):
        changes = []
        for sample in (winner, loser):
            with torch.no_grad():
                logp = replay(policy, DDIM(1.0), rollout, torch.tensor([sample]), torch.tensor([index])).item()
            changes.append(logp - acted[sample, index])
        rho = np.exp(changes)
        low, high = (0.9, 0.9) if sides == "both" else (0.0, 0.9), (1.1, 1.1) if sides == "both" else (1.1, math.inf)
        rho = [min(max(r, a), b) for r, a, b in zip(rho, low, high, strict=True)]
        total.append(-log_sigmoid(0.7 * (math.log(rho[0]) - math.log(rho[1]))))
        gaps.append(changes[0] > changes[1])
    loss, metrics = optimizer.loss(policy, batch)
    assert loss.item() == pytest.approx(np.mean(total), rel=1e-4)
    assert metrics["implicit_accuracy"].item() == pytest.approx(np.mean(gaps)) and 0 < metrics["clamped"] < 1


def test_the_reference_is_the_base_also_when_the_rollouts_are_no_longer_its():
    optimizer = D3po(beta=0.7, clip=0.9)
    policy, _, _ = begin(optimizer)
    base = ToyPolicy()
    move(base, 0.02, seed=1)
    move(policy, 0.03)
    optimizer.updated()
    optimizer.finished()
    rollout, (batch,) = made(optimizer, policy)
    loss, metrics = optimizer.loss(policy, batch)
    index = batch.index.repeat(2)
    with torch.no_grad():
        change = rollout.steps.logp[batch.sample, index] - replay(base, DDIM(1.0), rollout, batch.sample, index)
    change = change.clamp(math.log(0.1), math.log(1.9)).double().numpy()
    winner, loser = np.split(change, 2)
    assert loss.item() == pytest.approx(-log_sigmoid(0.7 * (winner - loser)).mean(), rel=1e-3)
    assert metrics["ratio_error"] < 1e-5 and abs(metrics["winner_logp_change"]) > 1e-4


def test_the_rollouts_log_probabilities_are_reused_as_long_as_they_are_the_references(monkeypatch):
    optimizer = D3po()
    policy, _, (batch,) = begin(optimizer)
    calls = []
    predict = policy.predict
    monkeypatch.setattr(policy, "predict", lambda x, level, cond: calls.append(len(x)) or predict(x, level, cond))

    def forwards() -> int:
        calls.clear()
        optimizer.loss(policy, batch)
        return len(calls)

    assert forwards() == 1
    optimizer.updated()
    assert forwards() == 1, "the rollout was made before"
    optimizer.finished()
    assert forwards() == 2
    fresh = D3po()
    fresh.attach(optimizer.weights)
    assert fresh.stored
    fresh.load_state_dict(optimizer.state_dict())
    assert not fresh.stored
    optimizer.reference = "rollout"
    assert forwards() == 1


def test_at_the_start_the_gradient_is_that_of_the_log_probabilities():
    optimizer = D3po(beta=0.4)
    policy, rollout, (batch,) = begin(optimizer)
    loss, metrics = optimizer.loss(policy, batch)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5) and metrics["clamped"] == 0
    parameters = list(policy.trainable().parameters())
    logp = replay(policy, DDIM(1.0), rollout, batch.sample, batch.index.repeat(2))
    expected = torch.autograd.grad(-0.2 * (logp.chunk(2)[0] - logp.chunk(2)[1]).mean(), parameters)
    for one, other in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_the_gradient_is_that_of_the_loss():
    optimizer = D3po(beta=5.0, clip=0.9, sides="one")
    policy, _, (batch,) = begin(optimizer)
    move(policy, 0.01)
    exact, differences = by_differences(policy, lambda: optimizer.loss(policy, batch)[0], 5e-4)
    assert abs(exact) > 1e-2 and exact == pytest.approx(differences, rel=2e-2)


def test_one_side_is_pushed_back_from_where_both_are_stuck():
    """Where a loser has become likelier by more than the clip, the released clamp has no gradient and the one-sided one has."""
    gradients = {}
    for sides in ("both", "one"):
        optimizer = D3po(clip=1e-6, sides=sides)
        policy, rollout, (batch,) = begin(optimizer)
        move(policy, 0.05)
        change = (
            replay(policy, DDIM(1.0), rollout, batch.sample, batch.index.repeat(2))
            - rollout.steps.logp[batch.sample, batch.index.repeat(2)]
        )
        winner, loser = change.detach().chunk(2)
        wrong = ((winner < -1e-5) & (loser > 1e-5)).nonzero().flatten()
        assert len(wrong)
        one = StepPairBatch(rollout, DDIM(1.0), batch.winner[wrong], batch.loser[wrong], batch.weight[wrong], batch.index[wrong], 1.0)
        gradients[sides] = torch.autograd.grad(optimizer.loss(policy, one)[0], policy.network.layers[-1].bias)[0]
    assert (gradients["both"] == 0).all() and gradients["one"].abs().max() > 1e-3


def test_shares_add_up_to_the_pairs_that_are_no_ties():
    optimizer = D3po()
    _, rollout, _ = begin(optimizer)
    rollout.couples.weight[0] = 0
    for micro in (1, 2, 5, 1000):
        (group,) = plan(optimizer, rollout, DDIM(1.0), 1, micro, 5, lambda _: None)
        assert sum(batch.share for batch in group) == pytest.approx(5 / 6)
        assert all(len(batch.sample) <= max(micro, 2) for batch in group)
    first, second = plan(optimizer, rollout, DDIM(1.0), 2, 1000, 5, lambda _: None)
    assert set(first[0].sample.tolist()) <= {0, 1, 2} and set(second[0].sample.tolist()) == {3, 4, 5}
    assert sum(batch.share for batch in first) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sides": "left"}, "sides: 'left'; expected 'both'"),
        ({"reference": "old"}, "reference: 'old'; expected 'base' or 'rollout'"),
        ({"reference": "rollout", "average": 0.9}, "average: the reference is the policy of the rollout already"),
        ({"clip": 1.0}, "clip: 1.0; expected beta above 0 and clip between 0 and 1"),
    ],
)
def test_options_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        D3po(**arguments)
