"""Stable Diffusion and its kin: latent U-Nets with text cross-attention."""

from __future__ import annotations

from typing import Any

from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from tests.conformance import parts
from tests.conformance.family import Family
from tests.conformance.parts import PROMPTS, WIDTH, built

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PNDM: dict[str, Any] = {**BETAS, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
DDIM: dict[str, Any] = {**BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
TURBO: dict[str, Any] = {**BETAS, "timestep_spacing": "trailing", "steps_offset": 1}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
}
BLOCKS: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def ddim() -> DDIMScheduler:
    return DDIMScheduler(**DDIM)


def euler_trailing() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**TURBO)


def _unet(channels: int = 4, **settings: Any) -> UNet2DConditionModel:
    return parts.fill(UNet2DConditionModel(in_channels=channels, out_channels=4, **{**UNET, **BLOCKS, **settings}))


def components(scheduler: Any, channels: int = 4, **settings: Any) -> dict[str, Any]:
    """All parts of a Stable Diffusion 1 or 2; ``settings`` change its U-Net."""
    words = parts.clip_tokenizer()
    return {
        "vae": parts.kl(),
        "text_encoder": parts.clip_text(len(words)),
        "tokenizer": words,
        "unet": _unet(channels, **settings),
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


@built
def stable_diffusion() -> DiffusionPipeline:
    return StableDiffusionPipeline(**components(PNDMScheduler(**PNDM)))


@built
def stable_diffusion_2_v() -> DiffusionPipeline:
    """Release 2.1 at 768 pixels: v-prediction, linear projections, a number of heads per level."""
    scheduler = DDIMScheduler(**DDIM, prediction_type="v_prediction")
    return StableDiffusionPipeline(**components(scheduler, use_linear_projection=True, attention_head_dim=(2, 4)))


@built
def sd_turbo() -> DiffusionPipeline:
    return StableDiffusionPipeline(**components(euler_trailing(), use_linear_projection=True, attention_head_dim=(2, 4)))


@built
def lcm() -> DiffusionPipeline:
    return LatentConsistencyModelPipeline(**components(LCMScheduler(**DDIM, original_inference_steps=50), time_cond_proj_dim=32))


@built
def sd_inpaint() -> DiffusionPipeline:
    """Nine input channels: the noisy latents, the mask, the latents of the masked image."""
    return StableDiffusionInpaintPipeline(**components(PNDMScheduler(**PNDM), channels=9))


@built
def sd_inpaint_blend() -> DiffusionPipeline:
    """Inpainting with an ordinary model: after each step what is outside the mask is put back, noised to the new level."""
    return StableDiffusionInpaintPipeline(**components(PNDMScheduler(**PNDM)))


@built
def sd_img2img() -> DiffusionPipeline:
    return StableDiffusionImg2ImgPipeline(**components(PNDMScheduler(**PNDM)))


@built
def instruct_pix2pix() -> DiffusionPipeline:
    """Three forwards a step: with text and image, with the image alone, with neither."""
    scheduler = EulerAncestralDiscreteScheduler(**BETAS, steps_offset=1)
    return StableDiffusionInstructPix2PixPipeline(**components(scheduler, channels=8))


@built
def controlnet() -> DiffusionPipeline:
    control = ControlNetModel(
        down_block_types=BLOCKS["down_block_types"],
        conditioning_embedding_out_channels=(8, 16),  # halves once, as the autoencoder does
        **{key: value for key, value in UNET.items() if key != "sample_size"},
    )
    return StableDiffusionControlNetPipeline(**components(PNDMScheduler(**PNDM)), controlnet=parts.fill(control))


def _sdxl(scheduler: Any) -> DiffusionPipeline:
    """Two text encoders side by side; pooled text and six numbers on size and crop are added to the time embedding."""
    words = parts.clip_tokenizer()
    unet = _unet(
        cross_attention_dim=2 * WIDTH,
        use_linear_projection=True,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        vae=parts.kl(scaling=0.13025),
        text_encoder=parts.clip_text(len(words)),
        text_encoder_2=parts.clip_text_projected(len(words)),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


@built
def sdxl() -> DiffusionPipeline:
    return _sdxl(EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"))


@built
def sdxl_turbo() -> DiffusionPipeline:
    return _sdxl(EulerAncestralDiscreteScheduler(**TURBO))


SIZE: dict[str, Any] = {"height": 16, "width": 16}
PICTURE: dict[str, Any] = {"image": parts.picture()}
INPAINT: dict[str, Any] = {**PICTURE, **SIZE, "mask_image": parts.hole(), "guidance_scale": 5.0}

FAMILIES: list[Family] = [
    Family("stable-diffusion-1.5", stable_diffusion, {**SIZE, "guidance_scale": 7.5}, PROMPTS, "ddim", ddim),
    Family("stable-diffusion-2-v", stable_diffusion_2_v, {**SIZE, "guidance_scale": 7.5}, PROMPTS, "ddim"),
    Family("sd-turbo", sd_turbo, {**SIZE, "guidance_scale": 0.0}, PROMPTS, "ddim"),
    Family("sdxl", sdxl, {**SIZE, "guidance_scale": 5.0}, PROMPTS, "ddim"),
    Family("sdxl-turbo", sdxl_turbo, {**SIZE, "guidance_scale": 0.0}, PROMPTS, "ddim", euler_trailing),
    Family("lcm", lcm, {**SIZE, "guidance_scale": 8.5}, PROMPTS, "consistency"),
    Family("sd-inpaint", sd_inpaint, INPAINT, PROMPTS, "ddim", ddim, note="nine channels: latents, mask, masked image"),
    Family(
        "sd-inpaint-blend",
        sd_inpaint_blend,
        {**INPAINT, "strength": 0.8},
        PROMPTS,
        "ddim",
        ddim,
        note="the loop overwrites the unmasked half after each step",
    ),
    Family(
        "sd-img2img",
        sd_img2img,
        {**PICTURE, "guidance_scale": 5.0, "strength": 0.8},
        PROMPTS,
        "ddim",
        ddim,
        note="starts part-way from the noised image; 4 steps asked for are 3 run",
    ),
    Family(
        "instruct-pix2pix",
        instruct_pix2pix,
        {**PICTURE, "guidance_scale": 5.0, "image_guidance_scale": 1.5},
        PROMPTS,
        "ddim",
        lambda: EulerDiscreteScheduler(**BETAS, steps_offset=1),
        note="three forwards a step",
    ),
    Family("controlnet", controlnet, {**PICTURE, **SIZE, "guidance_scale": 5.0}, PROMPTS, "ddim", ddim),
]
