"""Other pipelines around the video families' networks, from a clip or with a control clip."""

from __future__ import annotations

from typing import Any

from diffusers import (
    CogVideoXVideoToVideoPipeline,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from diffusers.pipelines.wan import pipeline_wan_vace, pipeline_wan_video2video

from tests.conformance import parts, video_dit, video_wan
from tests.conformance.family import Family
from tests.conformance.parts import PROMPTS, WIDTH, built
from tests.conformance.variants_image import around
from tests.conformance.video_wan import CHANNELS, SIZE, euler


def clip(frames: int) -> list[Any]:
    return [parts.picture(seed=seed) for seed in range(frames)]


for module in (pipeline_wan_vace, pipeline_wan_video2video):
    video_wan.without_ftfy(module)


@built
def vace() -> DiffusionPipeline:
    """A control branch over the clip's latents, split by its mask; its states are added to those of the network itself."""
    network = WanVACETransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=24,
        num_layers=2,
        rope_max_seq_len=32,
        vace_layers=[0, 1],
        vace_in_channels=2 * CHANNELS + 16,
    )
    return WanVACEPipeline(**video_wan.texts(), transformer=parts.fill(network), scheduler=video_wan.unipc(3.0))


@built
def sana_video() -> DiffusionPipeline:
    words = parts.gemma_tokenizer()
    network = SanaVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=12,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        sample_size=4,
        rope_max_seq_len=32,
    )
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)
    return SanaVideoPipeline(
        tokenizer=words,
        text_encoder=parts.gemma2(len(words)),
        vae=video_wan.kl_wan(),
        transformer=parts.fill(network),
        scheduler=scheduler,
    )


SANA: dict[str, Any] = {"height": 32, "width": 32, "frames": 5, "use_resolution_binning": False, "max_sequence_length": 24}

FAMILIES = [
    Family(
        "cogvideox-v2v",
        around(video_dit.cogvideox_2b, CogVideoXVideoToVideoPipeline),
        {"height": 16, "width": 16, "max_sequence_length": video_dit.TEXT, "video": clip(9), "strength": 0.8},
        PROMPTS,
        "ddim",
    ),
    Family(
        "wan-2.1-v2v",
        around(video_wan.wan21, WanVideoToVideoPipeline),
        {"height": 16, "width": 16, "max_sequence_length": 24, "video": clip(5)},
        PROMPTS,
        "ode",
        lambda: euler(3.0),
    ),
    Family("wan-2.1-vace", vace, {**SIZE, "video": clip(5)}, PROMPTS, "ode", lambda: euler(3.0)),
    Family("sana-video", sana_video, {**SANA, "complex_human_instruction": None}, PROMPTS, "ode", lambda: euler(8.0)),
]
