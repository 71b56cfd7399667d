"""Tiny pipelines of the audio families, from text and unconditional."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AudioLDMPipeline,
    AutoencoderOobleck,
    DanceDiffusionPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    IPNDMScheduler,
    LongCatAudioDiTPipeline,
    LongCatAudioDiTTransformer,
    LongCatAudioDiTVae,
    MusicLDMPipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    UNet1DModel,
    UNet2DConditionModel,
)
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Tokenizer,
)

from tests.conformance.family import Family
from tests.conformance.parts import LENGTH, WIDTH, built, fill, kl, qwen3, qwen_tokenizer, t5, t5_tokenizer, umt5

CHANNELS = 4
PROMPTS: list[dict[str, Any]] = [{"prompt": "a barking dog"}, {"prompt": "soft rain"}]


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


# ---- AudioLDM, AudioLDM 2 and MusicLDM -----------------------------------------------------------------------------------------

BLOCKS: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
}
LDM: dict[str, Any] = {"audio_length_in_s": 2.0}  # 8 frames of 8 mel bands: 4x4 latents


def roberta_tokenizer() -> RobertaTokenizer:
    """A real one, because AudioLDM 2 asks for its class."""
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"])}
    return RobertaTokenizer(vocabulary, [], model_max_length=LENGTH)


def sentencepiece_tokenizer() -> T5Tokenizer:
    """A real T5 tokenizer, because AudioLDM 2 asks for its class; it knows single letters."""
    letters = [(letter, -1.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    return T5Tokenizer([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0, model_max_length=LENGTH)


def _clap_text(words: int) -> ClapTextConfig:
    return ClapTextConfig(
        vocab_size=words,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH + 2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )


class ClapTensors(ClapModel):
    """Text features as a tensor, as transformers 4 gave them: MusicLDM's pipeline knows no other form."""

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return super().get_text_features(input_ids, attention_mask=attention_mask).pooler_output


def clap(words: int, kind: type[ClapModel] = ClapModel) -> ClapModel:
    sound = ClapAudioConfig(
        spec_size=8,
        window_size=4,
        num_mel_bins=8,
        depths=[1, 1],
        num_attention_heads=[1, 1],
        hidden_size=16,
        num_hidden_layers=2,
        projection_dim=WIDTH,
        patch_size=1,
        patch_stride=1,
        patch_embeds_hidden_size=8,
        num_classes=2,
    )
    text = _clap_text(words)
    return fill(kind(ClapConfig(text_config=text.to_dict(), audio_config=sound.to_dict(), projection_dim=WIDTH)))


def _sound() -> dict[str, Any]:
    """Latents of a mel spectrogram: their decoder, the vocoder (8 bands, 4 samples a frame, 16 samples a second) and the schedule."""
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=8,
        sampling_rate=16,
        upsample_initial_channel=8,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        normalize_before=False,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    vae = kl(channels=CHANNELS, planes=1)
    return {"vae": vae, "vocoder": fill(SpeechT5HifiGan(vocoder)), "scheduler": scheduler}


def _by_embedding() -> UNet2DConditionModel:
    """The text is one vector, concatenated to the time embedding; attention looks at the sound alone."""
    unet = UNet2DConditionModel(
        **BLOCKS,
        cross_attention_dim=(8, 16),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=WIDTH,
        class_embeddings_concat=True,
    )
    fill(unet)
    unet.class_embedding.weight.data *= WIDTH  # the vector has length 1 in all, not 1 per channel as the time embedding
    return unet


@built
def audioldm() -> DiffusionPipeline:
    words = roberta_tokenizer()
    encoder = fill(ClapTextModelWithProjection(_clap_text(len(words))))
    return AudioLDMPipeline(tokenizer=words, text_encoder=encoder, unet=_by_embedding(), **_sound())


@built
def musicldm() -> DiffusionPipeline:
    words = roberta_tokenizer()
    encoder = clap(len(words), ClapTensors)
    return MusicLDMPipeline(tokenizer=words, text_encoder=encoder, feature_extractor=None, unet=_by_embedding(), **_sound())


@built
def audioldm2() -> DiffusionPipeline:
    """CLAP's vector and T5's states go through a language model, whose output and T5's states are two contexts."""
    words, pieces = roberta_tokenizer(), sentencepiece_tokenizer()
    writer = GPT2Config(
        n_embd=WIDTH, n_head=2, n_layer=1, n_ctx=99, n_positions=99, vocab_size=8, max_new_tokens=4, bos_token_id=0, eos_token_id=1
    )
    unet = AudioLDM2UNet2DConditionModel(**BLOCKS, cross_attention_dim=[[None, WIDTH, WIDTH]] * 2)
    return AudioLDM2Pipeline(
        tokenizer=words,
        text_encoder=clap(len(words)),
        tokenizer_2=pieces,
        text_encoder_2=t5(len(pieces)),
        projection_model=fill(AudioLDM2ProjectionModel(WIDTH, WIDTH, WIDTH)),
        language_model=fill(GPT2LMHeadModel(writer)),
        feature_extractor=None,
        unet=fill(unet),
        **_sound(),
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
    """IPNDM without its memory of earlier steps, which is DDIM in v-prediction on alpha = cos, sigma = sin (its docs' "crash" schedule)."""

    def step(self, *given: Any, **named: Any) -> Any:
        self.ets = []
        return super().step(*given, **named)


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
    Family("stable-audio", stable_audio, {}, PROMPTS, "ddim", lambda: EDMEulerScheduler(**EDM), "EDM preconditioning, v-prediction"),
    Family("audioldm", audioldm, LDM, PROMPTS, "ddim", note="no latent output; sound is decoded", output="np"),
    Family("musicldm", musicldm, LDM, PROMPTS, "ddim"),
    Family("audioldm-2", audioldm2, {**LDM, "max_new_tokens": 4}, PROMPTS, "ddim"),
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
