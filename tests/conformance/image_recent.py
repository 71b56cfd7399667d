"""Flow transformers with large language models as text encoders, and others of the last years: CogView4, HiDream, Ovis, Bria."""

from __future__ import annotations

from typing import Any

from diffusers import (
    BriaPipeline,
    BriaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    UniPCMultistepScheduler,
)

from tests.conformance import parts
from tests.conformance.family import Family
from tests.conformance.image_flow import flow
from tests.conformance.parts import PROMPTS, WIDTH, built

STREAMS: dict[str, Any] = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}


@built
def cogview4() -> DiffusionPipeline:
    """Size and crop conditions beside the time, two forwards a step, and a linear shift of sigmas with the number of tokens."""
    words = parts.glm_tokenizer()
    network = CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        sample_size=8,
    )
    return CogView4Pipeline(
        tokenizer=words,
        text_encoder=parts.glm(len(words)),
        vae=parts.kl(scaling=1.0, shift=0.0, quant=False),
        transformer=parts.fill(network),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, base_image_seq_len=256, time_shift_type="linear"
        ),
    )


@built
def hidream() -> DiffusionPipeline:
    """Four text encoders, of which a Llama gives every block its own layer; a mixture of experts."""
    clip, t5, llama = parts.clip_tokenizer(), parts.t5_tokenizer(), parts.llama_tokenizer()
    network = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 8),
        llama_layers=[0, 1],
        **STREAMS,
    )
    pipe = HiDreamImagePipeline(
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        vae=parts.kl(scaling=0.3611, shift=0.1159, quant=False),
        text_encoder=parts.clip_text_projected(len(clip)),
        tokenizer=clip,
        text_encoder_2=parts.clip_text_projected(len(clip)),
        tokenizer_2=clip,
        text_encoder_3=parts.t5(len(t5)),
        tokenizer_3=t5,
        text_encoder_4=parts.llama(len(llama)),
        tokenizer_4=llama,
        transformer=parts.fill(network),
    )
    pipe.default_sample_size = 8  # the pipeline scales every height and width to this area
    return pipe


@built
def ovis() -> DiffusionPipeline:
    words = parts.qwen_tokenizer()
    network = OvisImageTransformer2DModel(in_channels=16, out_channels=16, joint_attention_dim=WIDTH, axes_dims_rope=(4, 2, 2), **STREAMS)
    return OvisImagePipeline(
        scheduler=flow(3.0),
        vae=parts.kl(scaling=0.3611, shift=0.1159, quant=False),
        text_encoder=parts.qwen3(len(words)).model,
        tokenizer=words,
        transformer=parts.fill(network),
    )


@built
def bria() -> DiffusionPipeline:
    words = parts.t5_tokenizer()
    network = BriaTransformer2DModel(in_channels=16, joint_attention_dim=WIDTH, axes_dims_rope=[4, 2, 2], **STREAMS)
    return BriaPipeline(
        transformer=parts.fill(network),
        scheduler=flow(3.0),
        vae=parts.kl(scaling=0.13025, shift=0.0),
        text_encoder=parts.t5(len(words)),
        tokenizer=words,
    )


SIZE: dict[str, Any] = {"height": 16, "width": 16}
SHORT: dict[str, Any] = {"max_sequence_length": 24}

FAMILIES: list[Family] = [
    Family("cogview4", cogview4, {**SIZE, **SHORT, "guidance_scale": 5.0}, PROMPTS, "ode", note="two forwards a step"),
    Family("hidream", hidream, {**SIZE, **SHORT, "guidance_scale": 5.0}, PROMPTS, "ode", lambda: flow(3.0)),
    Family("ovis", ovis, {**SIZE, "guidance_scale": 5.0}, PROMPTS, "ode", note="two forwards a step, packed x"),
    Family("bria", bria, {**SIZE, **SHORT, "guidance_scale": 5.0}, PROMPTS, "ode", note="packed x"),
]
