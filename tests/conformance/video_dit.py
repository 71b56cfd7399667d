"""Tiny video transformers of the diffusion kind: CogVideoX, Latte and Allegro (noise or v), Cosmos (EDM)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLCosmos,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    Cosmos2TextToImagePipeline,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    DDIMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
)

from tests.conformance.family import Family
from tests.conformance.parts import PROMPTS, WIDTH, built, fill, kl, t5, t5_tokenizer
from tests.conformance.video_wan import FRAMES, kl_wan

CHANNELS, TEXT = 4, 24  # channels of the latents, tokens of a prompt
SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_frames": 9, "max_sequence_length": TEXT}


def _texts() -> dict[str, Any]:
    words = t5_tokenizer()
    return {"tokenizer": words, "text_encoder": t5(len(words))}


# ---- CogVideoX -----------------------------------------------------------------------------------------------------------------

V_PREDICTION: dict[str, Any] = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def kl_cogvideox() -> AutoencoderKLCogVideoX:
    """A video is four times as wide as its latents and, after its first frame, four times as long."""
    return fill(
        AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8),
            down_block_types=("CogVideoXDownBlock3D",) * 3,
            up_block_types=("CogVideoXUpBlock3D",) * 3,
            latent_channels=CHANNELS,
            layers_per_block=1,
            norm_num_groups=4,
            temporal_compression_ratio=4,
        )
    )


def _cogvideox(channels: int, rotary: bool, learned: bool) -> dict[str, Any]:
    """``channels`` go in; positions are sines (2B), rotary (5B) or rotary and learned (5B from an image)."""
    network = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=CHANNELS,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=TEXT,
        use_rotary_positional_embeddings=rotary,
        use_learned_positional_embeddings=learned,
    )
    return {**_texts(), "vae": kl_cogvideox(), "transformer": fill(network)}


def cogvideox_ddim() -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(snr_shift_scale=1.0, **V_PREDICTION)


@built
def cogvideox_2b() -> DiffusionPipeline:
    scheduler = CogVideoXDDIMScheduler(snr_shift_scale=3.0, **V_PREDICTION)
    return CogVideoXPipeline(**_cogvideox(CHANNELS, rotary=False, learned=False), scheduler=scheduler)


@built
def cogvideox_5b() -> DiffusionPipeline:
    scheduler = CogVideoXDPMScheduler(snr_shift_scale=1.0, **V_PREDICTION)
    return CogVideoXPipeline(**_cogvideox(CHANNELS, rotary=True, learned=False), scheduler=scheduler)


@built
def cogvideox_image() -> DiffusionPipeline:
    return CogVideoXImageToVideoPipeline(**_cogvideox(2 * CHANNELS, rotary=True, learned=True), scheduler=cogvideox_ddim())


# ---- Latte and Allegro ---------------------------------------------------------------------------------------------------------


@built
def latte() -> DiffusionPipeline:
    """Predicts noise and variance; the pipeline drops the second half of the channels."""
    network = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=WIDTH,
        video_length=2,
    )
    scheduler = DDIMScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, clip_sample=False)
    return LattePipeline(**_texts(), vae=kl(), transformer=fill(network), scheduler=scheduler)


@built
def allegro() -> DiffusionPipeline:
    vae = AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8),
        down_block_types=("AllegroDownBlock3D",) * 3,
        up_block_types=("AllegroUpBlock3D",) * 3,
        temporal_downsample_blocks=(True, True, False),
        temporal_upsample_blocks=(False, True, True),
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=4,
    )
    network = AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=4,
        sample_height=4,
        sample_frames=2,
        caption_channels=WIDTH,
    )
    vae.enable_tiling()  # it cannot decode without; one tile is all there is
    vae.kernel = vae.stride = (12, 16, 16)
    return AllegroPipeline(**_texts(), vae=fill(vae), transformer=fill(network), scheduler=EulerAncestralDiscreteScheduler())


# ---- Cosmos --------------------------------------------------------------------------------------------------------------------


class Passes:
    """Stands in for Cosmos' guardrail, without which the pipeline does not run and whose package is large."""

    def to(self, device: torch.device | str) -> Passes:
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: np.ndarray) -> np.ndarray:
        return frames


def _cosmos() -> CosmosTransformer3DModel:
    return fill(
        CosmosTransformer3DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            mlp_ratio=1.0,
            text_embed_dim=WIDTH,
            adaln_lora_dim=4,
            max_size=(4, 16, 16),
            concat_padding_mask=False,  # with it the network needs torchvision
        )
    )


@built
def cosmos() -> DiffusionPipeline:
    """The pipeline guides in predicted x0, not in the network's output, by calling the scheduler twice a step."""
    vae = AutoencoderKLCosmos(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(8, 8),
        decode_block_out_channels=(8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
        latents_mean=None,
        latents_std=None,
    )
    scheduler = EDMEulerScheduler(sigma_schedule="karras", final_sigmas_type="sigma_min")
    return CosmosTextToWorldPipeline(**_texts(), vae=fill(vae), transformer=_cosmos(), scheduler=scheduler, safety_checker=Passes())


@built
def cosmos2() -> DiffusionPipeline:
    """The pipeline itself makes a velocity of the output: x0 = (1 - t) x - t f, guided, and (x - x0) / sigma; sigmas fall from 80."""
    return Cosmos2TextToImagePipeline(
        **_texts(),
        vae=kl_wan(),
        transformer=_cosmos(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=Passes(),
    )


FAMILIES = [
    Family("cogvideox-2b", cogvideox_2b, SIZE, PROMPTS, "ddim"),
    Family("cogvideox-5b", cogvideox_5b, SIZE, PROMPTS, "ddim", cogvideox_ddim),
    Family(
        "cogvideox-5b-dynamic", cogvideox_5b, {**SIZE, "use_dynamic_cfg": True}, PROMPTS, "ddim", cogvideox_ddim, "guidance depends on t"
    ),
    Family("cogvideox-5b-i2v", cogvideox_image, SIZE, FRAMES, "ddim"),
    Family("latte", latte, {"height": 16, "width": 16, "video_length": 2, "clean_caption": False}, PROMPTS, "ddim"),
    Family("allegro", allegro, {**SIZE, "clean_caption": False}, PROMPTS, "ddim", EulerDiscreteScheduler),
    Family(
        "cosmos-2",
        cosmos2,
        {"height": 16, "width": 16, "max_sequence_length": TEXT, "negative_prompt": "blurry"},
        PROMPTS,
        "ode",
        note="the scheduler's velocity depends on x besides the network's output; noise is added (sigma to 80), not mixed in",
    ),
    Family(
        "cosmos",
        cosmos,
        {**SIZE, "negative_prompt": "blurry"},
        PROMPTS,
        "ddim",
        note="EDM preconditioning; guidance in x0, as x_c + w (x_c - x_u)",
    ),
]
