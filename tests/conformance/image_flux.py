"""FLUX and its kin: flow transformers on packed patches, first with separate text and image streams, then with one."""

from __future__ import annotations

from typing import Any

from diffusers import (
    ChromaPipeline,
    ChromaTransformer2DModel,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)

from tests.conformance import parts
from tests.conformance.family import Family
from tests.conformance.parts import PROMPTS, WIDTH, built

DYNAMIC: dict[str, Any] = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
SMALL: dict[str, Any] = {
    "patch_size": 1,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "axes_dims_rope": (4, 2, 2),
}
PACKED = 16  # channels of x: four latents times a patch of 2x2


def dynamic() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**DYNAMIC)


def flux_parts(scheduler: FlowMatchEulerDiscreteScheduler, guided: bool, channels: int = PACKED) -> dict[str, Any]:
    """The parts of a FLUX.1; ``guided`` embeds the guidance scale, ``channels`` counts what is joined to x."""
    words, more = parts.clip_tokenizer(), parts.t5_tokenizer()
    network = FluxTransformer2DModel(
        in_channels=channels,
        out_channels=PACKED,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guided,
        **SMALL,
    )
    return {
        "scheduler": scheduler,
        "vae": parts.kl(scaling=0.3611, shift=0.1159, quant=False),
        "text_encoder": parts.clip_text(len(words)),
        "tokenizer": words,
        "text_encoder_2": parts.t5(len(more)),
        "tokenizer_2": more,
        "transformer": parts.fill(network),
    }


@built
def flux() -> DiffusionPipeline:
    return FluxPipeline(**flux_parts(dynamic(), guided=True))


@built
def flux_schnell() -> DiffusionPipeline:
    return FluxPipeline(**flux_parts(FlowMatchEulerDiscreteScheduler(shift=1.0), guided=False))


@built
def flux_fill() -> DiffusionPipeline:
    """Joined to x along channels: the packed latents of the masked image and the mask at full resolution."""
    mask = 4 * 2**2  # a packed patch covers 2x2 latents, each of 2x2 pixels
    return FluxFillPipeline(**flux_parts(dynamic(), guided=True, channels=2 * PACKED + mask))


@built
def flux_kontext() -> DiffusionPipeline:
    """Joined to x along tokens: the packed latents of the reference image; their outputs are dropped."""
    return FluxKontextPipeline(**flux_parts(dynamic(), guided=True))


@built
def flux2_klein() -> DiffusionPipeline:
    """Text features are three hidden layers of a Qwen3 side by side; latents are patched and whitened by the autoencoder."""
    words = parts.qwen_tokenizer()
    network = Flux2Transformer2DModel(
        in_channels=PACKED,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        guidance_embeds=False,
        **{**SMALL, "axes_dims_rope": (2, 2, 2, 2)},
    )
    return Flux2KleinPipeline(
        scheduler=dynamic(),
        vae=parts.kl_flux2(),
        text_encoder=parts.qwen3(len(words)),
        tokenizer=words,
        transformer=parts.fill(network),
    )


@built
def chroma() -> DiffusionPipeline:
    """Modulations come from one small network of the time; text tokens are masked; guidance is two forwards."""
    words = parts.t5_tokenizer()
    network = ChromaTransformer2DModel(
        in_channels=PACKED,
        joint_attention_dim=WIDTH,
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
        **SMALL,
    )
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=parts.kl(scaling=0.3611, shift=0.1159, quant=False),
        text_encoder=parts.t5(len(words)),
        tokenizer=words,
        transformer=parts.fill(network),
    )


CALL: dict[str, Any] = {"height": 16, "width": 16, "max_sequence_length": 24}
FILL: dict[str, Any] = {**CALL, "image": parts.picture(), "mask_image": parts.hole(), "guidance_scale": 30.0}
KONTEXT: dict[str, Any] = {**CALL, "image": parts.picture(), "max_area": 16 * 16, "_auto_resize": False, "guidance_scale": 2.5}
KLEIN: dict[str, Any] = {**CALL, "max_sequence_length": 80, "text_encoder_out_layers": (0, 1, 2), "guidance_scale": 4.0}

FAMILIES: list[Family] = [
    Family("flux", flux, {**CALL, "guidance_scale": 3.5}, PROMPTS, "ode", note="embedded guidance, packed x"),
    Family("flux-schnell", flux_schnell, {**CALL, "guidance_scale": 0.0}, PROMPTS, "ode", note="no guidance, packed x"),
    Family("flux-fill", flux_fill, FILL, PROMPTS, "ode", note="masked image and mask joined along channels"),
    Family("flux-kontext", flux_kontext, KONTEXT, PROMPTS, "ode", note="reference image joined along tokens"),
    Family("flux2-klein", flux2_klein, KLEIN, PROMPTS, "ode", note="two forwards a step"),
    Family(
        "flux2-klein-edit",
        flux2_klein,
        {**KLEIN, "image": parts.picture(64)},
        PROMPTS,
        "ode",
        note="two forwards a step; reference image joined along tokens",
    ),
    Family("chroma", chroma, {**CALL, "guidance_scale": 5.0}, PROMPTS, "ode", note="two forwards a step"),
]
