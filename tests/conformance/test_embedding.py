"""Media into latents: the learned inverse of decoding is what each pipeline's own code for encoding pictures says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline, QwenImagePipeline, StableDiffusion3Img2ImgPipeline, StableDiffusionImg2ImgPipeline

from tests.conformance.families import FAMILIES
from tropism.errors import PolicyError
from tropism.policies.pipeline import PipelinePolicy, capture


def policy(name: str) -> PipelinePolicy:
    family = FAMILIES[name]
    return capture(family.build(), **family.call)


def mode(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    return pipe.vae.encode(pixels).latent_dist.mode()


def prepared(twin: Any, noising: str, pixels: torch.Tensor) -> torch.Tensor:
    """What an image-to-image pipeline starts from, without its noise, and with the mode of the posterior instead of a draw."""
    vae, encode = twin.vae, twin.vae.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twin.scheduler, noising, lambda *args: next(x for x in args if x.ndim == 4))
        patch.setattr(vae, "encode", lambda x: SimpleNamespace(latents=encode(x).latent_dist.mode()))
        return twin.prepare_latents(pixels, torch.tensor([0]), len(pixels), 1, torch.float32, pixels.device)


def stable_diffusion(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    twin = StableDiffusionImg2ImgPipeline(**{**pipe.components, "image_encoder": None}, requires_safety_checker=False)
    return prepared(twin, "add_noise", pixels)


def sd3(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    return prepared(StableDiffusion3Img2ImgPipeline(**pipe.components), "scale_noise", pixels)


def flux(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    config = pipe.vae.config
    z = (mode(pipe, pixels) - config.shift_factor) * config.scaling_factor
    return FluxPipeline._pack_latents(z, *z.shape)


def qwen(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    config = pipe.vae.config
    z = mode(pipe, pixels[:, :, None])
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
    z = (z - mean) / std
    return QwenImagePipeline._pack_latents(z, len(z), z.shape[1], *z.shape[-2:])


def wan(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    config = pipe.vae.config
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
    return (mode(pipe, pixels.movedim(1, 2)) - mean) / std


def sana(pipe: Any, pixels: torch.Tensor) -> torch.Tensor:
    return pipe.vae.encode(pixels).latent * pipe.vae.config.scaling_factor


OWN = {"stable-diffusion-1.5": stable_diffusion, "sd3": sd3, "flux": flux, "qwen-image": qwen, "wan-2.1": wan, "sana": sana}


@pytest.mark.parametrize("name", OWN)
def test_media_become_what_the_pipelines_own_encoding_makes_of_them(name):
    made = policy(name)
    (kind,) = made.emits
    shape = made.decode(torch.zeros(1, *made.shape))[kind].shape[1:]
    media = torch.rand(2, *shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = OWN[name](made.pipe, 2 * media - 1)
        found = made.embed({kind: media})
    assert found.shape == (2, *made.shape) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected.view_as(found), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    alone = made.embed({kind: media[1:]})
    torch.testing.assert_close(alone, found[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_pixels_come_back_as_they_were(name):
    made = policy(name)
    x0 = torch.rand(2, *made.shape, generator=torch.Generator().manual_seed(3)) * 1.8 - 0.9
    torch.testing.assert_close(made.embed(made.decode(x0)), x0, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_turned_round_is_refused_by_name():
    with pytest.raises(PolicyError, match=r"AudioLDMPipeline: its media \[1, 32\] are not what its autoencoder decodes, \[1, 8, 8\]"):
        made = policy("audioldm")
        made.embed(made.decode(torch.zeros(1, *made.shape)))
    made = policy("stable-diffusion-1.5")
    with pytest.raises(PolicyError, match=r"media of shape \[3, 8, 8\]; this policy's are \[3, 16, 16\]"):
        made.embed({"image": torch.zeros(1, 3, 8, 8)})
    made = policy("stable-diffusion-1.5")
    made.pipe.vae.encode = None
    with pytest.raises(PolicyError, match=r"its vae \(AutoencoderKL\) has no encoder"):
        made.embed({"image": torch.zeros(1, 3, 16, 16)})


def test_learning_leaves_the_pipeline_as_it_was():
    made = policy("flux")
    before = made.decode(torch.ones(1, *made.shape))["image"]
    made.embed({"image": before})
    assert "decode" not in vars(made.pipe.vae)
    assert torch.equal(made.decode(torch.ones(1, *made.shape))["image"], before)
    assert FluxImg2ImgPipeline(**made.pipe.components).vae is made.pipe.vae


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_same_places(dtype):
    family = FAMILIES["flux"]
    full, half = policy("flux"), capture(family.build().to(dtype), **family.call)
    media = {"image": torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))}
    one, other = full.embed(media), half.embed(media)
    assert torch.equal(half._embedding.learned.place, full._embedding.learned.place)
    assert (one - other).norm() < 0.05 * one.norm()
