"""Tiny pipelines that make neither pictures nor clips: Shap-E (implicit 3-D shapes) and Marigold (depth of a picture)."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    HeunDiscreteScheduler,
    MarigoldDepthPipeline,
    PriorTransformer,
    ShapEImg2ImgPipeline,
    ShapEPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.shap_e import ShapERenderer
from transformers import CLIPVisionModel

from tests.conformance.family import Family
from tests.conformance.parts import (
    PROMPTS,
    WIDTH,
    built,
    clip_images,
    clip_text,
    clip_text_projected,
    clip_tokenizer,
    clip_vision,
    fill,
    kl,
    picture,
)
from tests.tiny import BETAS

PICTURES: list[dict[str, Any]] = [{"image": picture(seed=seed)} for seed in (0, 1)]
ROWS, LATENT = 8, 16  # rows of each of the four matrices that a shape consists of, and width of their latents


def _shape(**projection: Any) -> dict[str, Any]:
    """A prior over the rows of the renderer's weight matrices; the second half of its channels is dropped by the pipeline."""
    prior = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        embedding_dim=LATENT,
        num_embeddings=4 * ROWS,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
        time_embed_dim=16,
        embedding_proj_dim=WIDTH,
        clip_embed_dim=2 * LATENT,
        **projection,
    )
    renderer = ShapERenderer(
        param_shapes=((ROWS, 93), (ROWS, ROWS), (ROWS, ROWS), (ROWS, ROWS)), d_latent=LATENT, d_hidden=ROWS, background=(0.1, 0.1, 0.1)
    )
    scheduler = HeunDiscreteScheduler(
        beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample", use_karras_sigmas=True, clip_sample=True
    )
    return {"prior": fill(prior), "shap_e_renderer": fill(renderer, keep=("background",)), "scheduler": scheduler}


def shape_ddim() -> DDIMScheduler:
    """DDIM on Shap-E's betas, which it does not know by name."""
    betas = HeunDiscreteScheduler(beta_schedule="exp", num_train_timesteps=1024).betas
    return DDIMScheduler(num_train_timesteps=1024, trained_betas=betas.tolist(), prediction_type="sample", clip_sample=False)


@built
def shap_e() -> DiffusionPipeline:
    words = clip_tokenizer()
    return ShapEPipeline(tokenizer=words, text_encoder=clip_text_projected(len(words)), **_shape())


@built
def shap_e_image() -> DiffusionPipeline:
    encoder: CLIPVisionModel = clip_vision()
    return ShapEImg2ImgPipeline(image_encoder=encoder, image_processor=clip_images(), **_shape(embedding_proj_norm_type="layer"))


@built
def marigold() -> DiffusionPipeline:
    """Denoises a depth map whose condition, the picture's latents, comes before x_t in the channels."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
    )
    scheduler = DDIMScheduler(
        **BETAS, prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True, clip_sample=False
    )
    words = clip_tokenizer()
    return MarigoldDepthPipeline(
        tokenizer=words,
        text_encoder=clip_text(len(words)),
        vae=kl(),
        unet=fill(unet),
        scheduler=scheduler,
        prediction_type="depth",
        default_denoising_steps=4,
        default_processing_resolution=0,
    )


FAMILIES = [
    Family(
        "shap-e",
        shap_e,
        {"frame_size": 32},
        PROMPTS,
        "ddim",
        shape_ddim,
        "Heun's steps evaluate the network twice; predicts x0, which the scheduler clips to [-1, 1]",
    ),
    Family("shap-e-img2img", shap_e_image, {"frame_size": 32}, PICTURES, "ddim", shape_ddim),
    Family("marigold-depth", marigold, {}, PICTURES, "ddim", note="no latent output; the depth map is decoded", output="pt"),
]
