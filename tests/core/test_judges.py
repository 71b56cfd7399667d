"""Rewards as judges: who is paired with whom, ties, noise of labels, and pairs of several rewards."""

from __future__ import annotations

import math

import pytest
import torch

from tropism.judges import AllPairs, BestWorst, Pareto
from tropism.optimizers.base import paired
from tropism.types import Condition, Level, Rollout, Steps


def rollout(reward, group: int, scores=None) -> Rollout:
    count = len(reward)
    cond = Condition(
        items=[{"prompt": str(row // group)} for row in range(count)],
        encoded={"n": torch.arange(count)[:, None]},
        seed=torch.arange(100, 100 + count),
        group=torch.arange(count) // group,
    )
    none = torch.zeros(0)
    steps = Steps(x=torch.zeros(count, 0, 1), levels=Level(none, none, none), logp=torch.zeros(count, 0), on=none.bool())
    x0 = torch.arange(count).float()[:, None]
    return Rollout(cond=cond, x0=x0, steps=steps, scores=scores or {}, reward=torch.tensor(reward))


def told(couples):
    return list(zip(couples.winner.tolist(), couples.loser.tolist(), couples.weight.tolist(), strict=True))


def test_the_best_against_the_worst_of_each_group_and_equal_groups_are_ties():
    made = rollout([1.0, 3, 2, 0, 5, 5, 5, 5], 4)
    couples = BestWorst().couples(made)
    assert told(couples)[0] == (1, 3, 1.0) and couples.weight.tolist() == [1, 0] and couples.chance.tolist() == [1, 1]
    assert BestWorst()(made).tolist() == [0, 1, 0, -1, 0, 0, 0, 0]
    winner, loser, _ = told(couples)[1]
    assert winner != loser and {winner, loser} <= {4, 5, 6, 7}


def test_scores_that_are_no_further_apart_than_the_least_gap_are_a_tie():
    couples = AllPairs(least=1.0).couples(rollout([1.0, 3, 2, 7, 8, 9.5], 3))
    assert {(w, lo) for w, lo, weight in told(couples) if weight} == {(1, 0), (5, 4), (5, 3)} and len(couples.weight) == 6


def test_all_pairs_are_every_two_siblings_the_better_first():
    made = rollout([1.0, 3, 1, 7, 8, 9], 3)
    couples = AllPairs().couples(made)
    assert sorted(told(couples)) == [(0, 2, 0.0), (1, 0, 1.0), (1, 2, 1.0), (4, 3, 1.0), (5, 3, 1.0), (5, 4, 1.0)]
    assert AllPairs()(made).tolist() == [-1, 2, -1, -2, 0, 2]


def test_pareto_pairs_where_no_reward_disagrees():
    scores = {"a": torch.tensor([1.0, 2, 3, 3]), "b": torch.tensor([1.0, 2, 0, 0])}
    couples = Pareto().couples(rollout([0.0] * 4, 4, scores))
    assert {(w, lo) for w, lo, weight in told(couples) if weight} == {(1, 0)}
    assert couples.weight.sum() == 1 and len(couples.weight) == 6
    one = Pareto().couples(rollout([0.0] * 4, 4, {"a": scores["a"]}))
    assert {(w, lo) for w, lo, weight in told(one) if weight} == {(1, 0), (2, 0), (3, 0), (2, 1), (3, 1)}


def test_a_scale_gives_the_probability_of_bradley_and_terry():
    couples = BestWorst(scale=2.0).couples(rollout([1.0, 4.0], 2))
    assert told(couples) == [(1, 0, 1.0)] and couples.chance.item() == pytest.approx(1 / (1 + math.exp(-1.5)))


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 1 / (1 + math.exp(-1))), (math.inf, 0.5), (1e-3, 1.0)])
def test_noisy_labels_are_right_as_often_as_the_model_says(scale, expected):
    count = 4000
    made = rollout([0.0, 1.0] * count, 2)
    judge = BestWorst(scale=scale, noisy=True)
    couples = judge.couples(made)
    right = (couples.winner % 2 == 1).float().mean().item()
    assert right == pytest.approx(expected, abs=4 * math.sqrt(0.25 / count)) and (couples.chance == 1).all()
    assert told(judge.couples(made)) == told(couples), "drawn from the samples' seeds"


def test_a_part_of_a_rollout_is_judged_as_in_the_whole():
    reward = torch.randn(24, generator=torch.Generator().manual_seed(2)).tolist()
    made, judge = rollout(reward, 4), AllPairs(scale=0.5, noisy=True)
    part = rollout(reward, 4)
    rows = slice(8, 16)
    part = Rollout(cond=part.cond.slice(8, 16), x0=part.x0[rows], steps=part.steps, reward=part.reward[rows])
    inside = [(w - 8, lo - 8, weight) for w, lo, weight in told(judge.couples(made)) if 8 <= w < 16]
    assert told(judge.couples(part)) == inside


def test_pairs_of_a_rollout_carry_their_samples_and_a_seed_that_turning_round_does_not_change():
    made = rollout([1.0, 3, 2, 0], 2)
    made.couples = BestWorst().couples(made)
    found = paired(made)
    assert found.winner.flatten().tolist() == [1, 2] and found.loser.flatten().tolist() == [0, 3]
    assert found.cond.encoded["n"].flatten().tolist() == [1, 2] and [item["prompt"] for item in found.cond.items] == ["0", "1"]
    made.couples.winner, made.couples.loser = made.couples.loser, made.couples.winner
    assert torch.equal(paired(made).cond.seed, found.cond.seed) and found.cond.seed.unique().numel() == 2


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="noisy: true needs a scale"):
        BestWorst(noisy=True)
    with pytest.raises(ValueError, match="scale: 0; expected above 0"):
        AllPairs(scale=0)
    with pytest.raises(ValueError, match="least: -1; expected 0 or more"):
        AllPairs(least=-1)
