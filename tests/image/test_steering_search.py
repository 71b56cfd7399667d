"""Searches on the shipped pipelines: they take a captured policy's noise, guidance and decoding as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.glass import Glass
from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import Consistency, Sampler
from tropism.policies.pipeline import PipelinePolicy
from tropism.rewards.combine import Combined, Part
from tropism.sampling import condition
from tropism.steering.base import Method, steer
from tropism.steering.best_of_n import BestOfN
from tropism.steering.gibbs import Gibbs
from tropism.steering.paths import Paths
from tropism.steering.psp import Psp
from tropism.steering.rollover import Rollover
from tropism.steering.steered import Steered
from tropism.steering.svdd import Svdd
from tropism.steering.zero_order import ZeroOrder
from tropism.types import Condition
from tropism_image.generators.emoji import consistency, flow


def red(image: torch.Tensor) -> torch.Tensor:
    return image[:, 0].mean((1, 2)) - image[:, 2].mean((1, 2))


def made(policy: PipelinePolicy, method: Method, sampler: Sampler, steps: int = 3) -> tuple[Steered, Condition]:
    items = [{"prompt": name} for name in ("red apple", "blue heart") for _ in range(method.particles)]
    with torch.no_grad():
        cond = replace(condition(items, 0, 0, method.particles), encoded=policy.encode(items))
    return steer(policy, cond, sampler, steps, Combined([Part("red", red)]), method), cond


@pytest.fixture(scope="module")
def student() -> PipelinePolicy:
    return consistency(guidance=3.0)


@pytest.fixture(scope="module")
def rectified() -> PipelinePolicy:
    return flow(guidance=3.0)


def test_searches_of_the_consistency_model_begin_with_the_samples_of_its_rollouts(student):
    found, cond = made(student, Svdd(particles=2, candidates=1), Consistency())
    assert torch.equal(found.x0, collect(student, cond, Consistency(), 3, kept=range(0)).x0)
    best, _ = made(student, Svdd(particles=2, candidates=4), Consistency())
    assert best.forwards == 2 * 2 * (1 + 4 * 2) and (best.reward.mean(1) > found.reward.mean(1)).all()
    rolled, cond = made(student, Rollover(particles=2, forwards=9), Consistency())
    assert rolled.forwards <= 18 and rolled.rollout(cond).media["image"].shape == (2, *best.media["image"].shape[1:])
    swept, _ = made(student, Gibbs(particles=2, sweeps=2, lam=20.0), Consistency())
    assert swept.forwards == 2 * 2 * 3 * 2 and swept.x0.isfinite().all()


def test_searches_of_a_flow_need_no_noise_in_its_steps(rectified):
    base, _ = made(rectified, BestOfN(particles=2), Ode())
    kept, _ = made(rectified, Psp(particles=2, prune=((0.4, 1.0),)), Ode())
    assert torch.equal(kept.x0, base.x0)
    around, _ = made(rectified, ZeroOrder(particles=2, rounds=3), Ode())
    assert (around.reward.amax(1) >= base.reward.amax(1)).all() and around.forwards == 3 * base.forwards
    paths, _ = made(rectified, Paths(particles=1, copies=3, first=0.7, back=0.3, gain=0.3), Ode())
    assert paths.x0.isfinite().all() and paths.forwards == 2 * (2 + 3 * 2)


def test_the_flow_takes_steps_by_an_inner_ode(rectified):
    """A step costs as many forwards as inner steps, and samples are as spread as those of the ODE."""
    found, _ = made(rectified, BestOfN(particles=2), Glass(inner=2), steps=2)
    assert found.forwards == 2 * 2 * 2 * 2 and found.x0.isfinite().all()
    assert float(found.x0.std()) == pytest.approx(float(made(rectified, BestOfN(particles=2), Ode(), steps=4)[0].x0.std()), rel=0.4)
