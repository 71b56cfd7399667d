"""Transition kernels against diffusers, and log-probabilities against torch.distributions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler

from tropism.diffusion.samplers import DDIM, Consistency, log_prob, step
from tropism.diffusion.schedules import Schedule, from_config
from tropism.types import Level

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (3, 4, 5, 5)


@dataclass
class Fixed:
    """A policy whose network always says the same."""

    schedule: Schedule
    output: torch.Tensor

    def predict(self, x, level, cond):
        return self.output


def ddim(**settings) -> DDIMScheduler:
    scheduler = DDIMScheduler(**{**BETAS, "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False, **settings})
    scheduler.set_timesteps(10)
    return scheduler


@pytest.mark.parametrize("parametrization", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("index", [0, 4, 9])
@pytest.mark.parametrize("to_one", [False, True])
def test_a_ddim_step_is_that_of_diffusers(parametrization, eta, index, to_one):
    scheduler = ddim(prediction_type=parametrization, set_alpha_to_one=to_one)
    x, output, noise = torch.randn(SHAPE), torch.randn(SHAPE), torch.randn(SHAPE)
    policy, sampler = Fixed(from_config(scheduler.config), output), DDIM(eta)
    levels = sampler.levels(policy.schedule, 10)
    now, then = levels[index].expand(3), levels[index + 1].expand(3)
    t = scheduler.timesteps[index]
    expected_mean = scheduler.step(output, t, x, eta=eta, variance_noise=torch.zeros(SHAPE)).prev_sample
    expected = scheduler.step(output, t, x, eta=eta, variance_noise=noise).prev_sample
    torch.testing.assert_close(sampler.mean(policy, x, now, then, {}), expected_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(step(sampler, policy, x, now, then, {}, noise=noise)[0], expected, rtol=1e-4, atol=1e-5)
    variance = scheduler._get_variance(t, t - 100)
    torch.testing.assert_close(sampler.deviation(now, then), (eta * variance.sqrt()).float().expand(3), rtol=1e-3, atol=1e-6)


def test_the_ddim_step_of_ddpo_is_its_formula():
    """ddpo-pytorch, ddim_step_with_logprob, written out in float64."""
    scheduler = ddim()
    x, noise_hat, noise = (torch.randn(SHAPE) for _ in range(3))
    policy, sampler = Fixed(from_config(scheduler.config), noise_hat), DDIM(1.0)
    levels = sampler.levels(policy.schedule, 10)
    x_next, logp = step(sampler, policy, x, levels[3].expand(3), levels[4].expand(3), {}, noise=noise)
    a, b = (scheduler.alphas_cumprod[int(levels.t[index])].double() for index in (3, 4))
    sigma = ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    x0 = (x.double() - (1 - a).sqrt() * noise_hat.double()) / a.sqrt()
    mean = b.sqrt() * x0 + (1 - b - sigma**2).sqrt() * noise_hat.double()
    torch.testing.assert_close(x_next.double(), mean + sigma * noise.double(), rtol=1e-4, atol=1e-5)
    density = -((x_next.double() - mean) ** 2) / (2 * sigma**2) - sigma.log() - torch.log(torch.tensor(2 * torch.pi).sqrt())
    torch.testing.assert_close(logp.double(), density.mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("parametrization", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_consistency_sampling_is_that_of_diffusers_step_for_step(parametrization, steps):
    scheduler = LCMScheduler(**BETAS, prediction_type=parametrization)
    scheduler.set_timesteps(steps)
    sampler, schedule = Consistency(), from_config(scheduler.config)
    levels, mine = sampler.levels(schedule, steps), torch.randn(SHAPE)
    theirs = mine.clone()
    for index in range(steps):
        policy = Fixed(schedule, torch.randn(SHAPE))
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(index))
        mine, _ = step(sampler, policy, mine, levels[index].expand(3), levels[index + 1].expand(3), {}, noise=noise)
        theirs = scheduler.step(
            policy.output, scheduler.timesteps[index], theirs, generator=torch.Generator().manual_seed(index)
        ).prev_sample
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_log_prob_is_the_mean_over_dimensions_of_the_gaussian_density():
    x, mean, std = torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([0.1, 1.0, 7.0])
    expected = torch.distributions.Normal(mean, std[:, None, None, None]).log_prob(x).mean(dim=(1, 2, 3))
    torch.testing.assert_close(log_prob(x, mean, std), expected, rtol=1e-5, atol=1e-5)


def test_log_prob_of_a_deterministic_step_is_zero_with_zero_gradient():
    mean = torch.zeros(2, 3, requires_grad=True)
    logp = log_prob(torch.ones(2, 3), mean, torch.tensor([0.0, 2.0]))
    assert logp[0] == 0 and logp[1] != 0
    logp.sum().backward()
    assert mean.grad[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(mean.grad[1], torch.full((3,), 1 / 4 / 3))


def test_a_step_scored_is_the_step_taken():
    scheduler = ddim()
    policy, sampler = Fixed(from_config(scheduler.config), torch.randn(SHAPE)), DDIM(1.0)
    levels = sampler.levels(policy.schedule, 10)
    now, then, x = levels[2].expand(3), levels[3].expand(3), torch.randn(SHAPE)
    x_next, logp = step(sampler, policy, x, now, then, {}, noise=torch.randn(SHAPE))
    again, scored = step(sampler, policy, x, now, then, {}, x_next=x_next)
    assert again is x_next
    assert torch.equal(scored, logp)
    mean, _ = step(sampler, policy, x, now, then, {})
    assert torch.equal(mean, sampler.mean(policy, x, now, then, {}))


def test_samples_of_one_batch_may_be_at_different_levels():
    scheduler = ddim()
    policy, x = Fixed(from_config(scheduler.config), torch.randn(SHAPE)), torch.randn(SHAPE)
    levels = DDIM().levels(policy.schedule, 10)
    pick = torch.tensor([0, 5, 8])
    mixed = DDIM().mean(policy, x, levels[pick], levels[pick + 1], {})
    for row, index in enumerate(pick.tolist()):
        alone = DDIM().mean(
            Fixed(policy.schedule, policy.output[row : row + 1]), x[row : row + 1], levels[index].expand(1), levels[index + 1].expand(1), {}
        )
        assert torch.equal(mixed[row : row + 1], alone)


def test_consistency_noise_is_the_level_it_goes_to_and_the_end_is_clean():
    levels = Consistency().levels(from_config(LCMScheduler(**BETAS).config), 4)
    deviation = Consistency().deviation(levels[:-1], levels[1:])
    assert torch.equal(deviation, levels.sigma[1:])
    assert deviation[-1] == 0 and (deviation[:-1] > 0.1).all()


def test_levels_cut_and_expand_together():
    one = torch.arange(4.0)
    level = Level(one, one + 10, one + 20)
    assert [v.tolist() for v in (level[1:3].t, level[1:3].alpha, level[1:3].sigma)] == [[1, 2], [11, 12], [21, 22]]
    assert level[2].expand(3).sigma.tolist() == [22, 22, 22] and len(level) == 4
