"""Tiny pipelines of the audio families, from text and unconditional."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    AutoencoderOobleck,
    AutoencoderSAME,
    DanceDiffusionPipeline,
    DiffusionPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    IPNDMScheduler,
    LongCatAudioDiTPipeline,
    LongCatAudioDiTTransformer,
    LongCatAudioDiTVae,
    StableAudio3DiTModel,
    StableAudio3Pipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    UNet1DModel,
)
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from transformers import T5GemmaConfig, T5GemmaEncoderModel, T5GemmaModuleConfig

from tests.conformance import audio_ldm
from tests.conformance.family import Family
from tests.conformance.parts import (
    DECODER_SIZES,
    LENGTH,
    PROMPTS,
    WIDTH,
    built,
    fill,
    gemma_tokenizer,
    qwen3,
    qwen_tokenizer,
    t5,
    t5_tokenizer,
    umt5,
)

CHANNELS = 4


def oobleck(rate: int) -> AutoencoderOobleck:
    """Stereo; a sound has four times as many samples as latents. ``rate``: samples a second."""
    return fill(
        AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=[2, 2],
            channel_multiples=[1, 1],
            decoder_channels=4,
            decoder_input_channels=CHANNELS,
            sampling_rate=rate,
        )
    )


# ---- Stable Audio --------------------------------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {**DECODER_SIZES, "head_dim": 8, "query_pre_attn_scalar": 8}
EDM: dict[str, Any] = {
    "sigma_min": 0.3,
    "sigma_max": 500.0,
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
    "prediction_type": "v_prediction",
}


@built
def stable_audio() -> DiffusionPipeline:
    """With the EDM solver its pipeline names; the released scheduler differs from it by drawn noise and needs torchsde."""
    network = StableAudioDiTModel(
        sample_size=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=16,
        time_proj_dim=16,
        global_states_input_dim=2 * WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    words = t5_tokenizer(LENGTH)
    return StableAudioPipeline(
        tokenizer=words,
        text_encoder=t5(len(words)),
        projection_model=fill(StableAudioProjectionModel(WIDTH, WIDTH, 0, 32)),
        vae=oobleck(rate=16),
        transformer=fill(network),
        scheduler=EDMDPMSolverMultistepScheduler(**EDM),
    )


@built
def stable_audio3() -> DiffusionPipeline:
    """A flow, no longer EDM; guidance is usually distilled."""
    vae = AutoencoderSAME(
        patch_size=4,
        encoder_channels=16,
        encoder_c_mults=[1],
        encoder_strides=[2],
        encoder_transformer_depths=[1],
        latent_dim=CHANNELS,
        dim_heads=8,
        ff_mult=1,
        sampling_rate=16,
    )
    network = StableAudio3DiTModel(
        io_channels=CHANNELS,
        embed_dim=32,
        depth=1,
        num_heads=2,
        cond_token_dim=WIDTH,
        global_cond_dim=WIDTH,
        local_add_cond_dim=CHANNELS + 1,
        timestep_features_dim=16,
        ff_mult=1.0,
        num_memory_tokens=2,
    )
    words = gemma_tokenizer(LENGTH)
    encoder = T5GemmaConfig(
        encoder=T5GemmaModuleConfig(**SIZES, vocab_size=len(words)),
        decoder=T5GemmaModuleConfig(**SIZES, vocab_size=len(words)),
        is_encoder_decoder=False,
    )
    return StableAudio3Pipeline(
        tokenizer=words,
        text_encoder=fill(T5GemmaEncoderModel(encoder)),
        duration_embedder=fill(StableAudio3DurationEmbedder(output_dim=WIDTH, fourier_dim=16)),
        vae=fill(vae),
        transformer=fill(network),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


# ---- ACE-Step, LongCat and Dance Diffusion -------------------------------------------------------------------------------------

HEADS: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "sliding_window": 8,
}


def _ace_step(turbo: bool) -> DiffusionPipeline:
    words = qwen_tokenizer()
    encoder = AceStepConditionEncoder(
        **HEADS,
        text_hidden_dim=WIDTH,
        timbre_hidden_dim=CHANNELS,
        num_lyric_encoder_hidden_layers=2,
        num_timbre_encoder_hidden_layers=1,
    )
    encoder.silence_latent.normal_()
    network = AceStepTransformer1DModel(
        **HEADS, num_hidden_layers=2, in_channels=3 * CHANNELS, audio_acoustic_hidden_dim=CHANNELS, is_turbo=turbo
    )
    fill(network)
    for layer in network.layers:  # a prompt is 10 of the 300 bytes that the pipeline writes around it: look at single ones
        layer.cross_attn.norm_k.weight.data *= 4
        layer.cross_attn.to_v.weight.data *= 4
    return AceStepPipeline(
        tokenizer=words,
        text_encoder=qwen3(len(words)).model,
        condition_encoder=fill(encoder),
        vae=oobleck(rate=8),
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
    )


@built
def ace_step() -> DiffusionPipeline:
    return _ace_step(turbo=False)


@built
def ace_step_turbo() -> DiffusionPipeline:
    return _ace_step(turbo=True)


@built
def longcat() -> DiffusionPipeline:
    """Its time runs the other way: sigma rises from 0 (noise) to 1 (data)."""
    network = LongCatAudioDiTTransformer(dit_dim=16, dit_depth=1, dit_heads=2, dit_text_dim=WIDTH, latent_dim=CHANNELS, ff_mult=1.0)
    vae = LongCatAudioDiTVae(
        channels=8, c_mults=[1, 1], strides=[2], latent_dim=CHANNELS, encoder_latent_dim=2 * CHANNELS, downsampling_ratio=2, sample_rate=8
    )
    words = t5_tokenizer()
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return LongCatAudioDiTPipeline(
        tokenizer=words, text_encoder=umt5(len(words)), vae=fill(vae), transformer=fill(network), scheduler=scheduler
    )


class FirstOrder(IPNDMScheduler):
    """IPNDM without its memory of earlier steps, which is DDIM in v-prediction on alpha = cos, sigma = sin (its docs' "crash" schedule).

    The stock step finds x0 as (x - sigma eps) / alpha, which at its first level, alpha = 0, is 0 for any network; here it is
    alpha x - sigma v.
    """

    def step(self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, return_dict: bool = True) -> Any:
        now = 0 if self.step_index is None else self.step_index
        alpha, sigma = self.alphas[now], self.betas[now]
        x0, noise = alpha * sample - sigma * model_output, sigma * sample + alpha * model_output
        self._step_index = now + 1
        return SchedulerOutput(prev_sample=self.alphas[now + 1] * x0 + self.betas[now + 1] * noise)


@built
def dance_diffusion() -> DiffusionPipeline:
    unet = UNet1DModel(
        sample_size=32,
        sample_rate=32,
        block_out_channels=(8, 32, 32),
        extra_in_channels=16,
        use_timestep_embedding=False,
        flip_sin_to_cos=True,
    )
    return DanceDiffusionPipeline(unet=fill(unet), scheduler=IPNDMScheduler())


FAMILIES = [
    *audio_ldm.FAMILIES,
    Family("stable-audio", stable_audio, {}, PROMPTS, "ddim", lambda: EDMEulerScheduler(**EDM), "EDM preconditioning, v-prediction"),
    Family("stable-audio-3", stable_audio3, {"duration": 4.0, "guidance_scale": 3.0}, PROMPTS, "ode"),
    Family(
        "ace-step",
        ace_step,
        {"audio_duration": 4.0},
        [{**item, "lyrics": lyrics} for item, lyrics in zip(PROMPTS, ("la la", "oh"))],
        "ode",
        note="guidance is projected, clipped in norm and remembers earlier steps: no linear combination",
    ),
    Family("ace-step-turbo", ace_step_turbo, {"audio_duration": 4.0, "guidance_scale": 1.0}, PROMPTS, "ode"),
    Family("longcat-audio", longcat, {"audio_duration_s": 4.0}, PROMPTS, "ode", note="sigma rises from 0 (noise) to 1 (data)"),
    Family("dance-diffusion", dance_diffusion, {}, [{}, {}], "ddim", FirstOrder, "unconditional; clipped to [-1, 1]", output="np"),
]
