"""Tiny video transformers of the flow kind: LTX, Mochi, HunyuanVideo, HunyuanVideo 1.5 and Kandinsky 5."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from transformers import ByT5Tokenizer

from tests.conformance.family import Family
from tests.conformance.parts import (
    PROMPTS,
    WIDTH,
    built,
    clip_text,
    clip_tokenizer,
    fill,
    llama,
    llama_tokenizer,
    qwen25_vl,
    qwen_tokenizer,
    t5,
    t5_tokenizer,
)
from tests.conformance.video_wan import FRAMES

CHANNELS, TEXT = 4, 24  # channels of the latents, tokens of a prompt
SIZE: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": TEXT}


# ---- LTX -----------------------------------------------------------------------------------------------------------------------


def _ltx() -> dict[str, Any]:
    """The latents of a video are packed into tokens before the loop; eight times narrower, four times shorter."""
    vae = AutoencoderKLLTXVideo(
        latent_channels=CHANNELS,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=2,
    )
    vae.latents_mean.normal_(0, 0.3)
    vae.latents_std.uniform_(0.5, 2.0)
    network = LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=WIDTH,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1
    )
    words = t5_tokenizer()
    return {
        "tokenizer": words,
        "text_encoder": t5(len(words)),
        "vae": fill(vae),
        "transformer": fill(network),
        "scheduler": scheduler,
    }


@built
def ltx() -> DiffusionPipeline:
    return LTXPipeline(**_ltx())


@built
def ltx_image() -> DiffusionPipeline:
    """The tokens of the first frame are the image's and are at t = 0; only the others go through the scheduler."""
    return LTXImageToVideoPipeline(**_ltx())


@built
def ltx_condition() -> DiffusionPipeline:
    """LTX 0.9.5 and later: the sign of the prediction is turned, and the scheduler steps each token from a time of its own."""
    parts = _ltx()
    return LTXConditionPipeline(**{**parts, "scheduler": FlowMatchEulerDiscreteScheduler()})


# ---- Mochi ---------------------------------------------------------------------------------------------------------------------


@built
def mochi() -> DiffusionPipeline:
    """Its time runs the other way: sigma rises from 0 (noise) to 1 (data)."""
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
    network = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        max_sequence_length=TEXT,
    )
    words = t5_tokenizer()
    return MochiPipeline(
        tokenizer=words,
        text_encoder=t5(len(words)),
        vae=fill(vae),
        transformer=fill(network),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )


# ---- HunyuanVideo and Kandinsky 5 ----------------------------------------------------------------------------------------------


def kl_hunyuan() -> AutoencoderKLHunyuanVideo:
    """A video is eight times as wide as its latents and, after its first frame, four times as long."""
    return fill(
        AutoencoderKLHunyuanVideo(
            latent_channels=CHANNELS, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False
        )
    )


@built
def hunyuan() -> DiffusionPipeline:
    """Guidance is distilled: its scale is an input of the network."""
    network = HunyuanVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        mlp_ratio=1.0,
        text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        rope_axes_dim=(2, 2, 4),
    )
    words, clip_words = llama_tokenizer(), clip_tokenizer()
    return HunyuanVideoPipeline(
        tokenizer=words,
        text_encoder=llama(len(words), layers=3).model,
        tokenizer_2=clip_words,
        text_encoder_2=clip_text(len(clip_words), length=77),
        vae=kl_hunyuan(),
        transformer=fill(network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


@built
def hunyuan15() -> DiffusionPipeline:
    """Guidance is a component of the pipeline; beside x_t come an (empty) first frame and its mask."""
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=CHANNELS, block_out_channels=(32, 32, 32, 32), layers_per_block=1, spatial_compression_ratio=8
    )
    network = HunyuanVideo15Transformer3DModel(
        in_channels=2 * CHANNELS + 1,
        out_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=1.0,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        image_embed_dim=8,
        rope_axes_dim=(2, 2, 4),
        task_type="t2v",
    )
    words, glyphs = qwen_tokenizer(), ByT5Tokenizer()
    pipe = HunyuanVideo15Pipeline(
        tokenizer=words,
        text_encoder=qwen25_vl(words).model.language_model,
        tokenizer_2=glyphs,
        text_encoder_2=t5(len(glyphs)),
        vae=fill(vae),
        transformer=fill(network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )
    # a byte is a token here: with the real system message and lengths, each text would be 1,100 tokens long
    pipe.system_message, pipe.prompt_template_encode_start_idx = "Describe:", 10
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length, pipe.vision_num_semantic_tokens = 3 * TEXT, TEXT, 2
    return pipe


@built
def kandinsky5() -> DiffusionPipeline:
    """Latents have their channels last and carry an (empty) first frame and mask beside x_t; the scheduler sees a part of them."""
    network = Kandinsky5Transformer3DModel(
        in_visual_dim=CHANNELS,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=16,
        out_visual_dim=CHANNELS,
        model_dim=24,
        ff_dim=24,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 4, 4),
        visual_cond=True,
    )
    words, clip_words = qwen_tokenizer(), clip_tokenizer()
    pipe = Kandinsky5T2VPipeline(
        tokenizer=words,
        text_encoder=qwen25_vl(words),
        tokenizer_2=clip_words,
        text_encoder_2=clip_text(len(clip_words), length=77),
        vae=kl_hunyuan(),
        transformer=fill(network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )
    pipe.prompt_template, pipe.prompt_template_encode_start_idx = "Describe:{}", 9
    return pipe


FAMILIES = [
    Family("ltx", ltx, SIZE, PROMPTS, "ode"),
    Family("ltx-i2v", ltx_image, SIZE, FRAMES, "ode", note="per-token timesteps; the first frame is not denoised"),
    Family("ltx-condition", ltx_condition, SIZE, PROMPTS, "ode", note="predicts minus the velocity; the step is told each token's time"),
    Family(
        "ltx-condition-i2v",
        ltx_condition,
        {**SIZE, "image": FRAMES[0]["image"], "image_cond_noise_scale": 0.0},
        PROMPTS,
        "ode",
        note="as ltx-condition; tokens of the first frame are at t = 0 and are put back after each step",
    ),
    Family("mochi", mochi, {**SIZE, "num_frames": 7}, PROMPTS, "ode", note="sigma rises from 0 (noise) to 1 (data)"),
    Family(
        "hunyuan-video",
        hunyuan,
        {**SIZE, "prompt_template": {"template": "Describe: {}", "crop_start": 10}},
        PROMPTS,
        "ode",
        note="embedded guidance",
    ),
    Family("hunyuan-video-1.5", hunyuan15, {"height": 32, "width": 32, "num_frames": 5}, PROMPTS, "ode"),
    Family("kandinsky-5", kandinsky5, {**SIZE, "negative_prompt": "static"}, PROMPTS, "ode", note="x_t is a slice of the latents"),
]
