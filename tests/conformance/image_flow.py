"""Flow-matching transformers with their own layout of x: SD3, Sana, Qwen-Image, Z-Image, Lumina 2, AuraFlow."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SchedulerMixin,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from tests.conformance import parts
from tests.conformance.family import Family
from tests.conformance.parts import PROMPTS, WIDTH, built

QWEN: dict[str, Any] = {
    "use_dynamic_shifting": True,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}


def flow(shift: float) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def sd3_pipeline(channels: int = 4, dual: tuple[int, ...] = (0,)) -> DiffusionPipeline:
    """Two CLIPs and a T5; the blocks ``dual`` have a second attention; normalised queries and keys."""
    words, more = parts.clip_tokenizer(), parts.t5_tokenizer()
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=channels,
        out_channels=channels,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
        dual_attention_layers=dual,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=parts.fill(network),
        scheduler=flow(3.0),
        vae=parts.kl(channels, scaling=1.5305, shift=0.0609, quant=False),
        text_encoder=parts.clip_text_projected(len(words)),
        tokenizer=words,
        text_encoder_2=parts.clip_text_projected(len(words)),
        tokenizer_2=words,
        text_encoder_3=parts.t5(len(more), 2 * WIDTH),
        tokenizer_3=more,
    )


@built
def sd3() -> DiffusionPipeline:
    """Release 3.5 medium."""
    return sd3_pipeline()


def _sana(scheduler: SchedulerMixin, **settings: Any) -> dict[str, Any]:
    words = parts.gemma_tokenizer()
    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=8,
        **settings,
    )
    return {
        "tokenizer": words,
        "text_encoder": parts.gemma2(len(words)),
        "vae": parts.dc(),
        "transformer": parts.fill(network),
        "scheduler": scheduler,
    }


@built
def sana() -> DiffusionPipeline:
    return SanaPipeline(
        **_sana(
            DPMSolverMultistepScheduler(
                beta_schedule="linear",
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=3.0,
                algorithm_type="dpmsolver++",
            )
        )
    )


@built
def sana_sprint() -> DiffusionPipeline:
    """A consistency model in TrigFlow's angles: the loop turns angle and x into a flow's, and the output back into a velocity."""
    return SanaSprintPipeline(**_sana(SCMScheduler(), guidance_embeds=True, qk_norm="rms_norm_across_heads"))


def qwen_transformer() -> QwenImageTransformer2DModel:
    network = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 2, 2),
    )
    return parts.fill(network)


@built
def qwen_image() -> DiffusionPipeline:
    words = parts.qwen_tokenizer()
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**QWEN),
        vae=parts.kl_qwen(),
        text_encoder=parts.qwen25_vl(words),
        tokenizer=words,
        transformer=qwen_transformer(),
    )


@built
def z_image() -> DiffusionPipeline:
    """The network takes lists of images and of texts, and a time that grows toward the data."""
    words = parts.qwen_tokenizer()
    network = ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 2, 2],
        axes_lens=[256, 32, 32],
    )
    return ZImagePipeline(
        scheduler=flow(6.0),
        vae=parts.kl(scaling=0.3611, shift=0.1159, quant=False),
        text_encoder=parts.qwen3(len(words)),
        tokenizer=words,
        transformer=parts.fill(network),
    )


@built
def lumina2() -> DiffusionPipeline:
    words = parts.gemma_tokenizer()
    network = Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        scaling_factor=1.0,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 32, 32),
        cap_feat_dim=WIDTH,
    )
    return Lumina2Pipeline(
        transformer=parts.fill(network),
        scheduler=flow(6.0),
        vae=parts.kl(scaling=0.3611, shift=0.1159, quant=False, levels=4),
        text_encoder=parts.gemma2(len(words)),
        tokenizer=words,
    )


@built
def auraflow() -> DiffusionPipeline:
    words = parts.t5_tokenizer()
    network = AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pos_embed_max_size=16,
    )
    return AuraFlowPipeline(
        tokenizer=words,
        text_encoder=parts.umt5(len(words)),
        vae=parts.kl(scaling=0.13025),
        transformer=parts.fill(network),
        scheduler=flow(1.73),
    )


SIZE: dict[str, Any] = {"height": 16, "width": 16}
SHORT: dict[str, Any] = {"max_sequence_length": 24}
SANA: dict[str, Any] = {
    "height": 32,
    "width": 32,
    "use_resolution_binning": False,
    "complex_human_instruction": ["Paint: "],
    **SHORT,
}

FAMILIES: list[Family] = [
    Family("sd3", sd3, {**SIZE, **SHORT, "guidance_scale": 7.0}, PROMPTS, "ode"),
    Family("sana", sana, {**SANA, "guidance_scale": 4.5}, PROMPTS, "ode", lambda: flow(3.0)),
    Family(
        "sana-sprint",
        sana_sprint,
        {**SANA, "guidance_scale": 4.5, "intermediate_timesteps": None},
        PROMPTS,
        "consistency",
        note="SCM in TrigFlow angles with data of deviation 0.5; embedded guidance; the result is the last x0",
    ),
    Family(
        "qwen-image",
        qwen_image,
        {"height": 32, "width": 32, "true_cfg_scale": 4.0, "negative_prompt": " "},
        PROMPTS,
        "ode",
        note="two forwards a step with texts of different lengths; guidance rescaled to the conditional norm; packed x",
    ),
    Family(
        "z-image",
        z_image,
        {**SIZE, "guidance_scale": 5.0},
        PROMPTS,
        "ode",
        note="lists in and out, time and prediction reversed",
    ),
    Family("z-image-turbo", z_image, {**SIZE, "guidance_scale": 0.0}, PROMPTS, "ode", note="without guidance"),
    Family(
        "lumina2",
        lumina2,
        {"height": 32, "width": 32, "system_prompt": "Paint.", "max_sequence_length": 64, "guidance_scale": 4.0},
        PROMPTS,
        "ode",
        note="guidance rescaled to the conditional norm, two forwards a step, time and prediction reversed",
    ),
    Family("auraflow", auraflow, {**SIZE, **SHORT, "guidance_scale": 3.5}, PROMPTS, "ode"),
]
