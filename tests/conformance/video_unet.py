"""Tiny video U-Nets: AnimateDiff, Stable Video Diffusion, ModelScope's text-to-video and I2VGen-XL."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    I2VGenXLPipeline,
    I2VGenXLUNet,
    LCMScheduler,
    MotionAdapter,
    SchedulerMixin,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
)

from tests.conformance.family import Family
from tests.conformance.parts import PROMPTS, WIDTH, built, clip_images, clip_text, clip_tokenizer, clip_vision, fill, kl, picture
from tests.conformance.video_wan import FRAMES
from tests.tiny import BETAS

SIZE: dict[str, Any] = {"height": 16, "width": 16, "num_frames": 2}
BLOCKS: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": WIDTH,
}
BLOCKS_3D: dict[str, Any] = {
    **BLOCKS,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "attention_head_dim": 4,
}


def _texts() -> dict[str, Any]:
    words = clip_tokenizer()
    return {"tokenizer": words, "text_encoder": clip_text(len(words))}


def _animatediff(scheduler: SchedulerMixin) -> DiffusionPipeline:
    unet = UNet2DConditionModel(
        **BLOCKS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
    )
    motion = MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
        motion_max_seq_length=4,
    )
    return AnimateDiffPipeline(**_texts(), vae=kl(), unet=fill(unet), motion_adapter=fill(motion), scheduler=scheduler)


@built
def animatediff() -> DiffusionPipeline:
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", timestep_spacing="linspace", steps_offset=1, clip_sample=False
    )
    return _animatediff(scheduler)


def animatediff_ddim() -> DDIMScheduler:
    """AnimateDiff's own scheduler with another spacing: with linspace, diffusers' DDIM steps to a level that is not its next time's."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False)


@built
def animatelcm() -> DiffusionPipeline:
    return _animatediff(LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", original_inference_steps=50))


@built
def stable_video() -> DiffusionPipeline:
    """Made from an image alone: its latents are channels beside x_t, its CLIP embedding is the context."""
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1, latent_channels=4
    )
    unet = UNetSpatioTemporalConditionModel(
        sample_size=8,
        block_out_channels=(64, 64),  # norms have 32 groups; with one channel a group they would wipe out the time embedding
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        num_attention_heads=(2, 2),
        cross_attention_dim=WIDTH,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=2,
    )
    scheduler = EulerDiscreteScheduler(
        **BETAS,
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        steps_offset=1,
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )
    return StableVideoDiffusionPipeline(
        vae=fill(vae),
        image_encoder=clip_vision(224),  # the pipeline resizes to that, whatever the processor says
        unet=fill(unet),
        scheduler=scheduler,
        feature_extractor=clip_images(224),
    )


@built
def modelscope() -> DiffusionPipeline:
    """Frames move to the batch for the scheduler's step and back."""
    scheduler = DDIMScheduler(**BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    return TextToVideoSDPipeline(**_texts(), vae=kl(), unet=fill(UNet3DConditionModel(**BLOCKS_3D)), scheduler=scheduler)


@built
def i2vgen() -> DiffusionPipeline:
    """The pipeline draws the image's latents from the global generator; here they have no spread, so that one seed gives one video."""
    vae = kl()
    encode = vae.encode

    def certain(pixels: torch.Tensor) -> Any:
        encoded = encode(pixels)
        encoded.latent_dist.std.zero_()
        return encoded

    vae.encode = certain
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True, steps_offset=1, clip_sample=False
    )
    return I2VGenXLPipeline(
        **_texts(),
        vae=vae,
        image_encoder=clip_vision(),
        feature_extractor=clip_images(),
        unet=fill(I2VGenXLUNet(**BLOCKS_3D)),
        scheduler=scheduler,
    )


FAMILIES = [
    Family("animatediff", animatediff, SIZE, PROMPTS, "ddim", animatediff_ddim, "linspace DDIM steps to levels other than its next times'"),
    Family("animatelcm", animatelcm, {**SIZE, "guidance_scale": 2.0}, PROMPTS, "consistency"),
    Family(
        "stable-video-diffusion",
        stable_video,
        SIZE,
        [{"image": picture(seed=seed)} for seed in (0, 1)],
        "ddim",
        note="the guidance scale rises from the first frame to the last; v-prediction on continuous timesteps",
    ),
    Family("text-to-video-ms", modelscope, SIZE, PROMPTS, "ddim"),
    Family("i2vgen-xl", i2vgen, {**SIZE, "clip_skip": None}, FRAMES, "ddim"),
]
