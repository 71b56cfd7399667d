"""Noise levels against diffusers, and what a network's output means."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler

from tropism.diffusion.schedules import PARAMETRIZATIONS, Diffusion, from_config, like, split
from tropism.errors import PolicyError
from tropism.types import Level

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 20, 50, 333, 1000])
def test_ddim_times_are_those_of_diffusers(spacing, offset, steps):
    scheduler = DDIMScheduler(**BETAS, timestep_spacing=spacing, steps_offset=offset, clip_sample=False)
    if spacing == "leading" and steps == 1000 and offset == 1:  # diffusers steps outside its own table here
        with pytest.raises(PolicyError, match="begin at time 1000; the last one is 999"):
            from_config(scheduler.config).levels(steps)
        return
    scheduler.set_timesteps(steps)
    levels = from_config(scheduler.config).levels(steps)
    assert levels.t[:-1].tolist() == scheduler.timesteps.tolist()
    torch.testing.assert_close(levels.alpha[:-1], scheduler.alphas_cumprod[scheduler.timesteps].sqrt(), rtol=1e-6, atol=0)


def test_a_step_beyond_the_table_is_refused_and_not_wrapped_around():
    with pytest.raises(PolicyError, match="begin at time 10; the last one is 9"):
        Diffusion(bar=torch.linspace(1, 0.1, 10), offset=1).levels(10)


@pytest.mark.parametrize("steps", [*range(1, 9), 22, 39, 40])
@pytest.mark.parametrize("original", [50, 40])
def test_consistency_times_are_those_of_diffusers(steps, original):
    scheduler = LCMScheduler(**BETAS, original_inference_steps=original)
    scheduler.set_timesteps(steps)
    levels = from_config(scheduler.config).consistency_levels(steps)
    assert levels.t[:-1].tolist() == scheduler.timesteps.tolist()
    assert (levels.alpha[-1], levels.sigma[-1]) == (1, 0)


def test_rlcm_takes_the_eight_times_of_its_paper():
    assert from_config(LCMScheduler(**BETAS).config).consistency_levels(8).t[:3].tolist() == [999, 879, 759]


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_cumulative_products_are_those_of_diffusers(beta_schedule):
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule=beta_schedule, num_train_timesteps=500, clip_sample=False)
    assert torch.equal(from_config(scheduler.config).bar, scheduler.alphas_cumprod)


@pytest.mark.parametrize("to_one", [True, False])
def test_the_last_level_is_where_diffusers_ends(to_one):
    scheduler = DDIMScheduler(**BETAS, set_alpha_to_one=to_one, clip_sample=False)
    levels = from_config(scheduler.config).levels(10)
    torch.testing.assert_close(levels.alpha[-1] ** 2, scheduler.final_alpha_cumprod, rtol=1e-6, atol=0)
    assert levels.t[-1] == 0
    assert (levels.sigma[-1] == 0) == to_one


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "noise schedule 'squaredcos_cap_v2' is not supported"),
        ({"beta_schedule": "scaled_linear", "trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"beta_schedule": "scaled_linear", "clip_sample": True}, "clip_sample"),
        ({"beta_schedule": "scaled_linear", "thresholding": True}, "thresholding"),
        ({}, "noise schedule '' is not supported"),
    ],
)
def test_schedules_of_another_family_are_refused_and_not_misread(config, message):
    with pytest.raises(PolicyError, match=message):
        from_config({"beta_start": 0.001, "beta_end": 0.01, "num_train_timesteps": 10, **config})


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_outside_the_schedule_are_refused(steps):
    schedule = from_config(DDIMScheduler(**BETAS, clip_sample=False).config)
    with pytest.raises(PolicyError, match=f"{steps} sampler steps; expected 1 to 1000"):
        schedule.levels(steps)
    with pytest.raises(PolicyError, match=f"{steps} sampler steps; expected 1 to 50"):
        schedule.consistency_levels(steps)


def test_levels_fall_and_preserve_variance():
    schedule = from_config(DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1).config)
    for levels in (schedule.levels(13), schedule.consistency_levels(5)):
        assert (levels.sigma.diff() < 0).all() and (levels.alpha.diff() > 0).all()
        torch.testing.assert_close(levels.alpha**2 + levels.sigma**2, torch.ones(len(levels)))


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_split_inverts_the_noising_whatever_the_network_predicts(parametrization):
    x0, noise = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(5, 3, 4, dtype=torch.float64)
    angle = torch.linspace(0.1, 1.4, 5, dtype=torch.float64)
    alpha, sigma = (angle.cos(), angle.sin()) if parametrization != "flow" else (1 - angle / 2, angle / 2)
    x = like(alpha, x0) * x0 + like(sigma, x0) * noise
    output = {
        "epsilon": noise,
        "sample": x0,
        "v_prediction": like(alpha, x0) * noise - like(sigma, x0) * x0,
        "flow": noise - x0,
        "edm": like(sigma, x0) * x0 - like(alpha, x0) * noise,
    }[parametrization]
    found_x0, found_noise = split(output, x, Level(angle.float(), alpha.float(), sigma.float()), parametrization)
    torch.testing.assert_close(found_x0, x0.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_noise, noise.float(), rtol=1e-4, atol=1e-5)


def test_split_gives_float32_from_half_precision():
    one = torch.ones(2)
    for part in split(
        torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 3, dtype=torch.bfloat16), Level(one, one * 0.6, one * 0.8), "epsilon"
    ):
        assert part.dtype == torch.float32


def test_an_unknown_parametrization_is_refused():
    one = torch.ones(1)
    with pytest.raises(PolicyError, match="unknown parametrization 'velocity'; expected one of epsilon"):
        split(torch.ones(1, 2), torch.ones(1, 2), Level(one, one, one), "velocity")


@pytest.mark.parametrize("t", [19, 499, 999])
def test_boundary_weights_are_those_of_diffusers(t):
    scheduler = LCMScheduler(**BETAS)
    skip, out = scheduler.get_scalings_for_boundary_condition_discrete(torch.tensor(t))
    time = torch.tensor([float(t)])
    found = from_config(scheduler.config).boundary_weights(Level(time, time, time))
    torch.testing.assert_close(torch.cat(found).double(), torch.stack([skip, out]).double(), rtol=1e-6, atol=0)


def test_a_model_without_boundary_condition_gives_its_prediction_alone():
    time = torch.tensor([3.0, 5.0])
    skip, out = from_config(DDIMScheduler(**BETAS, clip_sample=False).config).boundary_weights(Level(time, time, time))
    assert skip.tolist() == [0, 0] and out.tolist() == [1, 1]


def test_at_gives_the_level_of_integer_times():
    scheduler = DDIMScheduler(**BETAS, clip_sample=False)
    level = from_config(scheduler.config).at(torch.tensor([0, 500]))
    assert torch.equal(level.alpha, scheduler.alphas_cumprod[[0, 500]].sqrt())
    assert torch.equal(level.sigma, (1 - scheduler.alphas_cumprod[[0, 500]]).sqrt())
    assert level.t.tolist() == [0.0, 500.0]
