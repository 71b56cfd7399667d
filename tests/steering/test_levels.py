"""What a reward that asks for ``t`` is told: the level of the states that a promised sample was predicted from; 0 of a finished one."""

from __future__ import annotations

import pytest
import torch

from tests.steering.toys import on_toy
from tropism.diffusion.samplers import DDIM
from tropism.steering.base import Method
from tropism.steering.best_of_n import BestOfN
from tropism.steering.bfs import Bfs
from tropism.steering.fk import Fk
from tropism.steering.gibbs import Gibbs
from tropism.steering.paths import Paths
from tropism.steering.process import stops
from tropism.steering.psp import Psp
from tropism.steering.rollover import Rollover
from tropism.steering.svdd import Svdd
from tropism.steering.twisted import Twisted
from tropism.steering.zero_order import ZeroOrder
from tropism.toy import ToyPolicy

STEPS = 8
QUARTERS = [2, 4, 6, STEPS]


class Told:
    """Minus the distance to the origin; remembers the levels that it was told, call by call, and what it was asked about."""

    differentiable = True

    def __init__(self) -> None:
        self.t: list[torch.Tensor] = []

    def __call__(self, points: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == (len(points),) and t.dtype == torch.float32
        self.t.append(t.clone())
        return -points.square().sum(1)


@pytest.mark.parametrize(
    ("method", "points"),
    [
        (Fk(particles=4), QUARTERS),
        (Fk(particles=2, intermediate={"samples": 2}), [2, 2, 4, 4, 6, 6, STEPS]),
        # From 2 over 5 to 8, from 4 over 6 and from 6 over 7: what is scored was predicted from the middle.
        (Fk(particles=4, intermediate={"lookahead": 2}), [5, 6, 7, STEPS]),
        (Twisted(particles=4, schedule={"start": 0.25, "end": 0.75, "every": 0.25}), QUARTERS),
        (Gibbs(particles=3, sweeps=2), QUARTERS * 2),
        (Bfs(particles=4), QUARTERS),
        (Psp(particles=4), [2, 4, STEPS]),
        (Svdd(particles=1, candidates=3), [1, 2, 3, 4, 5, 6, 7, STEPS]),
        (Paths(particles=2), [6, STEPS, STEPS]),
        (ZeroOrder(particles=2, rounds=2), [STEPS, STEPS]),
        (BestOfN(particles=2), [STEPS]),
    ],
    ids=lambda one: type(one).__name__.lower() if isinstance(one, Method) else "",
)
@pytest.mark.parametrize("parametrization", ["epsilon", "flow"])
def test_the_level_of_the_states_that_were_predicted_from(method, points, parametrization):
    levels, reward = DDIM(eta=1.0).levels(ToyPolicy(parametrization=parametrization).schedule, STEPS).t, Told()
    on_toy(method, prompts=2, sampler=DDIM(eta=1.0), steps=STEPS, reward=reward, parametrization=parametrization)
    assert all((told == told[0]).all() for told in reward.t)
    assert [float(told[0]) for told in reward.t] == [0.0 if point == STEPS else float(levels[point]) for point in points]


def test_a_budget_is_told_the_level_that_each_child_was_seen_at():
    levels, reward = DDIM(eta=1.0).levels(ToyPolicy().schedule, STEPS).t, Told()
    on_toy(Rollover(particles=2, forwards=20), prompts=1, sampler=DDIM(eta=1.0), steps=STEPS, reward=reward)
    told = [float(t[0]) for t in reward.t]
    assert told == sorted(told, reverse=True) and set(told) == {*levels[:-1].tolist(), 0.0}


def test_stops_are_even_and_never_twice():
    assert stops(2, 3, 8) == [2, 4, 6, 8] and stops(6, 5, 8) == [6, 7, 8] and stops(7, 1, 8) == [7, 8]
