"""Diffusion in pixels or without text: DDPM, DDIM, unconditional latent diffusion, DeepFloyd IF, the Kandinsky decoder."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    IFPipeline,
    KandinskyV22Pipeline,
    LDMPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)

from tests.conformance import parts
from tests.conformance.family import Family
from tests.conformance.parts import PROMPTS, WIDTH, built

SMALL: dict[str, Any] = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
SIMPLE: dict[str, Any] = {
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "resnet_time_scale_shift": "scale_shift",
    "cross_attention_dim": 32,  # the smallest that its group norms allow
    "attention_head_dim": 4,
}
LATENT: dict[str, Any] = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear", "clip_sample": False}
DECODER: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}


def _unet(channels: int) -> UNet2DModel:
    network = UNet2DModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        **SMALL,
    )
    return parts.fill(network)


def _vq(norm: str) -> VQModel:
    """Quantized autoencoder; with ``spatial`` norms it is Kandinsky's, whose decoder is steered by the latents themselves."""
    network = VQModel(
        block_out_channels=(32, 32) if norm == "spatial" else (8, 8),  # spatial norms have 32 groups
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D" if norm == "spatial" else "UpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=16,
        norm_num_groups=4,
        vq_embed_dim=4,
        norm_type=norm,
    )
    return parts.fill(network)


@built
def ddpm() -> DiffusionPipeline:
    return DDPMPipeline(_unet(3), DDPMScheduler(variance_type="fixed_large", clip_sample=True))


@built
def ddim() -> DiffusionPipeline:
    return DDIMPipeline(_unet(3), DDIMScheduler(clip_sample=True))


def unclipped() -> DDIMScheduler:
    return DDIMScheduler(clip_sample=False)


@built
def ldm() -> DiffusionPipeline:
    return LDMPipeline(vqvae=_vq("group"), unet=_unet(4), scheduler=DDIMScheduler(**LATENT))


@built
def deepfloyd() -> DiffusionPipeline:
    """Stage 1: pixels, T5 text both as cross attention and added to the time embedding, learned variance, thresholded x0."""
    words = parts.t5_tokenizer(77)
    network = UNet2DConditionModel(
        in_channels=3,
        out_channels=6,
        encoder_hid_dim=WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_skip_time_act=True,
        resnet_out_scale_factor=1.414,
        act_fn="gelu",
        time_embedding_act_fn="gelu",
        **SMALL,
        **SIMPLE,
    )
    return IFPipeline(
        tokenizer=words,
        text_encoder=parts.t5(len(words)),
        unet=parts.fill(network),
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2",
            variance_type="learned_range",
            thresholding=True,
            dynamic_thresholding_ratio=0.95,
            sample_max_value=1.5,
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def deepfloyd_ddim() -> DDIMScheduler:
    """The pipeline asks its scheduler for ``variance_type`` to know whether to drop the learned variance."""
    return DDIMScheduler.from_config({"beta_schedule": "squaredcos_cap_v2", "clip_sample": False, "variance_type": "fixed_small"})


@built
def kandinsky() -> DiffusionPipeline:
    """Release 2.2, the decoder: conditioned on an image embedding and not on text, learned variance."""
    network = UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        **SMALL,
        **SIMPLE,
    )
    scheduler = DDPMScheduler(**DECODER, variance_type="learned_range", clip_sample=True, clip_sample_range=2.0)
    return KandinskyV22Pipeline(unet=parts.fill(network), scheduler=scheduler, movq=_vq("spatial"))


def kandinsky_ddim() -> DDIMScheduler:
    return DDIMScheduler(**DECODER, clip_sample=False, set_alpha_to_one=False)


def _embedding(seed: int) -> torch.Tensor:
    return torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(seed))


CLIPS = "the real scheduler clips x0, that of parity does not"
FAMILIES: list[Family] = [
    Family("ddpm", ddpm, {}, [{}, {}], "ddim", unclipped, note=CLIPS, output="np"),
    Family("ddim", ddim, {}, [{}, {}], "ddim", unclipped, note=CLIPS, output="np"),
    Family("ldm-uncond", ldm, {}, [{}, {}], "ddim", note="no latents out", output="np"),
    Family(
        "if",
        deepfloyd,
        {"guidance_scale": 7.0, "clean_caption": False},
        PROMPTS,
        "ddim",
        deepfloyd_ddim,
        note=f"pixels; learned variance split off before guidance; {CLIPS}",
        output="pt",
    ),
    Family(
        "kandinsky-2.2-decoder",
        kandinsky,
        {"height": 16, "width": 16, "guidance_scale": 4.0, "negative_image_embeds": _embedding(0)},
        [{"image_embeds": _embedding(1)}, {"image_embeds": _embedding(2)}],
        "ddim",
        kandinsky_ddim,
        note=f"items are embeddings; learned variance split off before guidance; {CLIPS}",
    ),
]
