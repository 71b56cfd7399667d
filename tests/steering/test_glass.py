"""GLASS transitions: the law of a flow whose velocity is known, step by step and at the end."""

from __future__ import annotations

import math

import pytest
import torch

from tests.steering.problems import FOUR
from tests.steering.toys import on_toy
from tropism.diffusion.glass import Glass, level_of
from tropism.diffusion.samplers import transition
from tropism.diffusion.schedules import Diffusion, Flow
from tropism.errors import PolicyError, SteeringError
from tropism.steering.best_of_n import BestOfN
from tropism.steering.fk import Fk
from tropism.steering.twisted import Das, Twisted
from tropism.toy import ToyPolicy
from tropism.types import Level, Tree

WEIGHTS, WIDTH = torch.tensor([0.4, 0.3, 0.2, 0.1]), 0.5


class Mixture:
    """The flow of four Gaussians of deviation 1/2 with its exact velocity."""

    emits = frozenset({"points"})
    schedule = Flow()

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        alpha, sigma = level.alpha[:, None], level.sigma[:, None]
        total = (alpha * WIDTH) ** 2 + sigma**2
        gap = x[:, None] - alpha[:, None] * FOUR.float()
        share = torch.softmax(WEIGHTS.log() - gap.square().sum(-1) / (2 * total), 1)
        x0 = (sigma**2 * (share @ FOUR.float()) + alpha * WIDTH**2 * x) / total
        return (x - x0) / sigma  # eps - x0


def walk(sampler: Glass, steps: int, chains: int, policy: Mixture | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    policy, levels = policy or Mixture(), Flow().levels(steps)
    x = torch.randn(chains, 2, generator=generator)
    for index in range(steps):
        noise = torch.randn(chains, 2, generator=generator)
        x = sampler.jump(policy, x, levels[index].expand(chains), levels[index + 1].expand(chains), {}, noise)
    return x


def distance(x: torch.Tensor) -> float:
    """W1 to the exact law, the mean over eight directions, by its quantiles along each."""
    angles = torch.arange(8) * math.pi / 8
    found = []
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    for way in torch.stack([angles.cos(), angles.sin()], 1):
        ours = torch.searchsorted((x @ way).double().sort().values, grid, right=True) / len(x)
        exact = (torch.special.ndtr((grid[:, None] - FOUR @ way.double()) / WIDTH) * WEIGHTS).sum(1)
        found.append((ours - exact).abs().mean() * 10)
    return float(torch.stack(found).mean())


def test_bias_falls_with_inner_steps():
    """Measured with 300 000 chains: 0.163, 0.083 and 0.010 with 2, 4 and 100 inner steps of each of five."""
    two, four, hundred = (distance(walk(Glass(inner), 5, 10_000)) for inner in (2, 4, 100))
    assert two == pytest.approx(0.163, abs=0.03)
    assert four == pytest.approx(0.083, abs=0.03)
    assert hundred < 0.03


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_every_correlation_keeps_the_marginals(correlation):
    assert distance(walk(Glass(100, correlation), 3, 5_000)) < 0.05


class OneGaussian:
    """x0 from N(1, 1/4) in every dimension."""

    emits = frozenset({"points"})

    def __init__(self, schedule: Flow | Diffusion) -> None:
        self.schedule = schedule

    def predict(self, x: torch.Tensor, level: Level, cond: Tree) -> torch.Tensor:
        alpha, sigma = level.alpha[:, None], level.sigma[:, None]
        x0 = (sigma**2 + alpha * 0.25 * x) / (alpha**2 * 0.25 + sigma**2)
        noise = (x - alpha * x0) / sigma
        return noise - x0 if self.schedule.parametrization == "flow" else noise


@pytest.mark.parametrize("name", ["flow", "epsilon"])
def test_a_step_of_one_gaussian_has_the_mean_and_the_variance_of_bayes(name):
    schedule = Flow() if name == "flow" else Diffusion(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0))
    levels = schedule.levels(4)
    now, then = levels[1].expand(1), levels[2].expand(1)
    a, b, c = Glass().coefficients(now, then)
    x = torch.full((1, 1), 0.3)
    total = now.alpha**2 * 0.25 + now.sigma**2
    mean = a * (now.sigma**2 + now.alpha * 0.25 * 0.3) / total + b * 0.3
    variance = a**2 * 0.25 * now.sigma**2 / total + c**2
    # The inner ODE takes a normal z to a normal y, so two values of z say all.
    low, high = (Glass(400).jump(OneGaussian(schedule), x, now, then, {}, torch.full((1, 1), z)) for z in (-1.0, 1.0))
    assert float((low + high) / 2) == pytest.approx(float(mean), abs=3e-3)
    assert float((high - low) / 2) == pytest.approx(float(variance.sqrt()), abs=3e-3)
    marginal = a**2 * 0.25 + 2 * a * b * now.alpha * 0.25 + b**2 * total + c**2
    assert float(marginal) == pytest.approx(float(then.alpha**2 * 0.25 + then.sigma**2), abs=1e-5)


def test_levels_by_their_ratio():
    ratio = torch.tensor([[0.01, 0.5], [1.0, 30.0]])
    level = level_of(Flow(shift=3.0), ratio)
    assert torch.allclose(level.sigma / level.alpha, ratio, rtol=1e-5)
    assert torch.allclose(level.t, 1000 * level.sigma)
    coarse = level_of(Diffusion(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)), ratio)
    assert ((coarse.sigma / coarse.alpha) / ratio > 0.97).all() and ((coarse.sigma / coarse.alpha) <= ratio * 1.001).all()


def test_a_flow_is_steered_by_its_steps_and_forwards_are_counted():
    sampler = Glass(inner=3)
    base = on_toy(BestOfN(particles=4), sampler=sampler, steps=4, parametrization="flow", prompts=10)
    assert base.forwards == 10 * 4 * 4 * 3
    found = on_toy(Fk(particles=4), sampler=sampler, steps=4, parametrization="flow", prompts=10)
    assert found.forwards == base.forwards and any(point.resampled.any() for point in found.points)
    assert len(set(map(tuple, found.x0[:4].tolist()))) == 4  # copies part in the last step too
    assert torch.equal(on_toy(Fk(particles=4, lam=0.0), sampler=sampler, steps=4, parametrization="flow", prompts=10).x0, base.x0)


def test_what_its_steps_cannot_do_is_refused_by_name():
    asked = []

    def near(points: torch.Tensor) -> torch.Tensor:
        asked.append(len(points))
        return points[:, 0]

    for method in (Twisted(particles=2), Das(particles=2)):
        with pytest.raises(SteeringError, match="steps of sampler 'glass' have no density, so they cannot follow a gradient"):
            on_toy(method, sampler=Glass(), parametrization="flow", reward=near)
    assert asked == [], "it is said before any step"
    policy, level = ToyPolicy(parametrization="flow"), Flow().levels(2)
    with pytest.raises(PolicyError, match="sampler 'glass' steers only"):
        transition(Glass(), policy, torch.zeros(1, 2), level[0].expand(1), level[1].expand(1), {})
    with pytest.raises(ValueError, match="inner: 0; expected 1"):
        Glass(inner=0)
    with pytest.raises(ValueError, match=r"correlation: 1.5; expected 0"):
        Glass(correlation=1.5)
