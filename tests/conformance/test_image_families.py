"""Images: final latents can be decoded, and Euler on sigmas is the DDIM that the families say it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import DDIMScheduler

from tests.conformance import image
from tests.conformance.family import Family
from tests.conformance.image_unet import DDIM
from tests.conformance.test_families import difference, sample

IMAGE = {family.name: family for family in image.FAMILIES}


@pytest.mark.parametrize("family", IMAGE.values(), ids=IMAGE.keys())
def test_the_result_is_an_rgb_image(family: Family) -> None:
    decoded = sample(dataclasses.replace(family, output="np"), family.build())
    assert decoded.ndim == 4
    assert decoded.shape[-1] == 3
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    assert decoded.std() > 1e-2, "all pixels are equal"


@pytest.mark.parametrize(("name", "spacing"), [("sdxl", "leading"), ("sd-turbo", "trailing")])
def test_euler_is_ddim(name: str, spacing: str) -> None:
    """On x / sqrt(1 + sigma^2); where Euler starts from sigma and not sqrt(1 + sigma^2) times noise, DDIM's noise is that much smaller."""
    family = IMAGE[name]
    euler = family.build()
    stock = sample(family, euler)
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    start = start * euler.scheduler.init_noise_sigma / (1 + euler.scheduler.sigmas[0] ** 2) ** 0.5

    pipe = family.build()
    pipe.scheduler = DDIMScheduler(**{**DDIM, "set_alpha_to_one": True, "timestep_spacing": spacing})
    ours = sample(dataclasses.replace(family, call={**family.call, "latents": start}), pipe)
    assert difference(ours, stock) < 1e-5
    pipe.scheduler = DDIMScheduler(**{**DDIM, "timestep_spacing": spacing})  # ends at the first training level, not at clean data
    assert difference(sample(dataclasses.replace(family, call={**family.call, "latents": start}), pipe), stock) > 1e-4
