"""Tiny pipelines around Wan's transformer: Wan 2.1 and 2.2, from text and from an image, and SkyReels-V2."""

from __future__ import annotations

import types
from typing import Any

from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.skyreels_v2 import pipeline_skyreels_v2
from diffusers.pipelines.wan import pipeline_wan_i2v

from tests.conformance.family import Family
from tests.conformance.parts import PROMPTS, WIDTH, built, clip_images, clip_vision, fill, picture, t5_tokenizer, umt5

CHANNELS = 4
SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 24}
FRAMES: list[dict[str, Any]] = [{**item, "image": picture(seed=seed)} for seed, item in enumerate(PROMPTS)]
"""The two items of every family that takes a prompt and a first frame."""


def kl_wan(channels: int = CHANNELS) -> AutoencoderKLWan:
    """Wan's causal video autoencoder; a video is four times as wide and, after its first frame, four times as long as its latents."""
    return fill(
        AutoencoderKLWan(
            base_dim=4,
            z_dim=channels,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[True, True],
            scale_factor_spatial=4,
            scale_factor_temporal=4,
            latents_mean=[0.1 * index for index in range(channels)],
            latents_std=[1.0 + 0.1 * index for index in range(channels)],
        )
    )


def transformer(channels: int = CHANNELS, image: int | None = None) -> WanTransformer3DModel:
    """``image`` is the width of CLIP's image tokens where the network takes them."""
    return fill(
        WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=channels,
            out_channels=CHANNELS,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=24,
            num_layers=1,
            rope_max_seq_len=32,
            image_dim=image,
            added_kv_proj_dim=24 if image else None,
        )
    )


def unipc(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def euler(shift: float) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def texts() -> dict[str, Any]:
    words = t5_tokenizer()
    return {"tokenizer": words, "text_encoder": umt5(len(words)), "vae": kl_wan()}


@built
def wan21() -> DiffusionPipeline:
    return WanPipeline(**texts(), transformer=transformer(), scheduler=unipc(3.0))


@built
def wan22() -> DiffusionPipeline:
    """Two experts: the first for t >= 0.875, the second below."""
    return WanPipeline(**texts(), transformer=transformer(), transformer_2=transformer(), scheduler=unipc(12.0), boundary_ratio=0.875)


@built
def wan22_small() -> DiffusionPipeline:
    """Wan 2.2 5B from text: one timestep per token, all of them alike."""
    return WanPipeline(**texts(), transformer=transformer(), scheduler=unipc(5.0), expand_timesteps=True)


def without_ftfy(module: types.ModuleType) -> None:
    """Some pipelines of diffusers 0.42 call ftfy even where it is not installed; prompts in plain ASCII need no mending."""
    if not hasattr(module, "ftfy"):
        module.ftfy = types.SimpleNamespace(fix_text=str)  # type: ignore[attr-defined]


def _from_image(**parts: Any) -> WanImageToVideoPipeline:
    without_ftfy(pipeline_wan_i2v)
    return WanImageToVideoPipeline(**texts(), **parts)


@built
def wan21_image() -> DiffusionPipeline:
    """The first frame comes in twice: as channels beside x_t (with a mask) and as CLIP tokens beside the text."""
    network = transformer(2 * CHANNELS + 4, image=WIDTH)
    return _from_image(transformer=network, image_encoder=clip_vision(), image_processor=clip_images(), scheduler=unipc(3.0))


@built
def wan22_image() -> DiffusionPipeline:
    """Two experts and no CLIP."""
    networks = {"transformer": transformer(2 * CHANNELS + 4), "transformer_2": transformer(2 * CHANNELS + 4)}
    return _from_image(**networks, scheduler=unipc(5.0), boundary_ratio=0.9)


@built
def wan22_small_image() -> DiffusionPipeline:
    """Wan 2.2 5B from an image: the tokens of the first frame are the image's and are at t = 0, the others at t."""
    return _from_image(transformer=transformer(), scheduler=unipc(5.0), expand_timesteps=True)


@built
def skyreels() -> DiffusionPipeline:
    without_ftfy(pipeline_skyreels_v2)
    network = SkyReelsV2Transformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        freq_dim=256,
        ffn_dim=24,
        num_layers=1,
        rope_max_seq_len=32,
    )
    return SkyReelsV2Pipeline(**texts(), transformer=fill(network), scheduler=unipc(8.0))


FAMILIES = [
    Family("wan-2.1", wan21, SIZE, PROMPTS, "ode", lambda: euler(3.0)),
    Family("wan-2.2", wan22, {**SIZE, "guidance_scale": 4.0, "guidance_scale_2": 3.0}, PROMPTS, "ode", lambda: euler(12.0)),
    Family("wan-2.2-ti2v", wan22_small, SIZE, PROMPTS, "ode", lambda: euler(5.0), "per-token timesteps"),
    Family("wan-2.1-i2v", wan21_image, {**SIZE, "max_sequence_length": 512}, FRAMES, "ode", lambda: euler(3.0)),
    Family("wan-2.2-i2v", wan22_image, SIZE, FRAMES, "ode", lambda: euler(5.0)),
    Family(
        "wan-2.2-ti2v-i2v", wan22_small_image, SIZE, FRAMES, "ode", lambda: euler(5.0), "the first frame is not denoised; it stays at t = 0"
    ),
    Family("skyreels-v2", skyreels, SIZE, PROMPTS, "ode", lambda: euler(8.0)),
]
