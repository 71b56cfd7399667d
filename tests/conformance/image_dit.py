"""Transformers in the place of the U-Net, still with a diffusion (not flow) schedule: PixArt, Hunyuan-DiT, DiT."""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)

from tests.conformance import parts
from tests.conformance.family import Family
from tests.conformance.parts import PROMPTS, WIDTH, built

LINEAR: dict[str, Any] = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
HUNYUAN: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.03,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "steps_offset": 1,
}
SMALL: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8, "patch_size": 2}


def ddim_linear() -> DDIMScheduler:
    return DDIMScheduler(**LINEAR, clip_sample=False)


def ddim_hunyuan() -> DDIMScheduler:
    return DDIMScheduler(**HUNYUAN)


def _pixart(scaling: float) -> dict[str, Any]:
    """Twice as many output channels as latents: the second half is a learned variance that samplers drop."""
    words = parts.t5_tokenizer()
    network = PixArtTransformer2DModel(in_channels=4, out_channels=8, cross_attention_dim=16, caption_channels=WIDTH, **SMALL)
    return {
        "tokenizer": words,
        "text_encoder": parts.t5(len(words)),
        "vae": parts.kl(scaling=scaling),
        "transformer": parts.fill(network),
        "scheduler": DPMSolverMultistepScheduler(**LINEAR, solver_order=2, algorithm_type="dpmsolver++"),
    }


@built
def pixart_alpha() -> DiffusionPipeline:
    return PixArtAlphaPipeline(**_pixart(0.18215))


@built
def pixart_sigma() -> DiffusionPipeline:
    return PixArtSigmaPipeline(**_pixart(0.13025))


@built
def hunyuan_dit() -> DiffusionPipeline:
    """Bilingual CLIP (a BERT) and mT5 side by side, size conditions, learned variance, v-prediction."""
    words, more = parts.bert_tokenizer(77), parts.t5_tokenizer(256)
    network = HunyuanDiT2DModel(
        in_channels=4,
        hidden_size=16,
        mlp_ratio=2.0,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=WIDTH,
        **SMALL,
    )
    return HunyuanDiTPipeline(
        vae=parts.kl(scaling=0.13025),
        text_encoder=parts.bert(len(words), 77),
        tokenizer=words,
        text_encoder_2=parts.t5(len(more)),
        tokenizer_2=more,
        transformer=parts.fill(network),
        scheduler=DDPMScheduler(**HUNYUAN),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@built
def dit() -> DiffusionPipeline:
    network = DiTTransformer2DModel(in_channels=4, out_channels=8, num_embeds_ada_norm=1000, **SMALL)
    return DiTPipeline(transformer=parts.fill(network), vae=parts.kl(), scheduler=ddim_linear())


SIZE: dict[str, Any] = {"height": 16, "width": 16, "use_resolution_binning": False}
PIXART: dict[str, Any] = {**SIZE, "guidance_scale": 4.5, "clean_caption": False, "max_sequence_length": 24}
SIGMA = "learned variance: half of the output channels are dropped"

FAMILIES: list[Family] = [
    Family("pixart-sigma", pixart_sigma, PIXART, PROMPTS, "ddim", ddim_linear, note=SIGMA),
    Family("pixart-alpha", pixart_alpha, PIXART, PROMPTS, "ddim", ddim_linear, note=SIGMA),
    Family("hunyuan-dit", hunyuan_dit, {**SIZE, "guidance_scale": 5.0}, PROMPTS, "ddim", ddim_hunyuan, note=SIGMA),
    Family(
        "dit",
        dit,
        {"guidance_scale": 4.0},
        [{"class_labels": [3]}, {"class_labels": [207]}],
        "ddim",
        note=f"{SIGMA}; the loop doubles x and guides both halves; no latents in or out",
        output="np",
    ),
]
