"""Samples that climb a reward: where they end, what holds them, and what it costs."""

from __future__ import annotations

import pytest
import torch

from tests.steering.toys import on_toy
from tropism.diffusion.flow_samplers import Ode
from tropism.errors import SteeringError
from tropism.plugins import manager
from tropism.steering.ascent import Ascent
from tropism.steering.best_of_n import BestOfN

GOAL = torch.tensor([1.0, -0.5])


class Bowl:
    """Minus the square distance to a goal."""

    differentiable = True

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        return -(points - GOAL).square().sum(1)


class Missing(Bowl):
    """The same, but no number on one side."""

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        return super().__call__(points) + torch.where(points[:, 0] > 0, 0.0, torch.nan)


@pytest.mark.parametrize("tie", [0.0, 1.0, 6.0])
def test_it_ends_where_reward_and_tie_balance(tie):
    begun = on_toy(BestOfN(3, select="all"), reward=Bowl(), sampler=Ode())
    ended = on_toy(Ascent(3, steps=400, lr=0.05, tie=tie, select="all"), reward=Bowl(), sampler=Ode())
    # The square distance is a mean over two coordinates, so the tie pulls half as hard as it says.
    balance = (GOAL + tie / 2 * begun.x0) / (1 + tie / 2)
    assert torch.allclose(ended.x0, balance, atol=5e-3)
    assert ended.forwards == begun.forwards and ended.calls == begun.calls * 402  # 401 looks on the way, and the end


def test_no_steps_are_the_samples_themselves_and_no_sample_ends_lower():
    begun = on_toy(BestOfN(4), reward=Bowl())
    still = on_toy(Ascent(4, steps=0), reward=Bowl())
    assert torch.equal(still.x0, begun.x0) and torch.equal(still.chosen, begun.chosen)
    wild = on_toy(Ascent(4, steps=7, lr=5.0, tie=0.0), reward=Bowl())
    assert (wild.reward >= begun.reward).all() and (wild.reward > begun.reward).any()


def test_a_prompt_climbs_as_it_would_alone_and_in_any_slices():
    method = Ascent(2, steps=10)
    together = on_toy(method, prompts=3, reward=Bowl())
    alone = torch.cat([on_toy(method, prompts=1, first=number, reward=Bowl()).x0 for number in range(3)])
    assert torch.allclose(together.x0, alone, atol=1e-6)
    assert torch.allclose(on_toy(method, prompts=3, chunk=4, reward=Bowl()).x0, together.x0, atol=1e-6)


def test_where_the_reward_is_no_number_a_sample_stays():
    begun = on_toy(BestOfN(16, select="all"), prompts=1, reward=Bowl())
    ended = on_toy(Ascent(16, steps=20, select="all"), prompts=1, reward=Missing())
    lost = begun.x0[:, 0] <= 0
    assert lost.any() and not lost.all()
    assert torch.equal(ended.x0[lost], begun.x0[lost]) and ended.reward[0, lost].isnan().all()
    assert (ended.reward[0, ~lost] > begun.reward[0, ~lost]).all() and ended.unscored == int(lost.sum())


def test_a_reward_that_explodes_on_the_way_is_not_what_a_sample_ends_with():
    class Exploding(Bowl):
        def __call__(self, points: torch.Tensor) -> torch.Tensor:
            near = (points - GOAL).norm(dim=1) < 0.3
            return super().__call__(points) + torch.where(near, torch.inf, 0.0)

    begun = on_toy(BestOfN(8, select="all"), prompts=1, reward=Bowl())
    ended = on_toy(Ascent(8, steps=200, tie=0.0, select="all"), prompts=1, reward=Exploding())
    assert (begun.reward < -0.09).all() and ended.reward.isfinite().all() and (ended.reward > begun.reward).all()


def test_a_reward_without_a_gradient_is_refused():
    with pytest.raises(SteeringError, match="'Ascent' follows the reward's gradient, but 'near' does not declare differentiable = True"):
        on_toy(Ascent(), reward=lambda points: points[:, 0])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"steps": -1}, "steps: -1; expected 0"),
        ({"lr": float("inf")}, "lr: inf; expected 0 or more"),
        ({"tie": -1.0}, "tie: -1.0; expected 0 or more"),
        ({"particles": 0}, "particles: 0; expected 1"),
    ],
)
def test_arguments_are_refused_by_name(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        manager()[1].load("steering", "ascent")(**arguments)
