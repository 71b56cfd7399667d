"""Tiny pipelines that denoise the latents of a mel spectrogram: AudioLDM, AudioLDM 2 and MusicLDM."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AudioLDMPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    MusicLDMPipeline,
    UNet2DConditionModel,
)
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
from tests.conformance.parts import LENGTH, PROMPTS, WIDTH, built, fill, kl, t5

CHANNELS = 4
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


FAMILIES = [
    Family("audioldm", audioldm, LDM, PROMPTS, "ddim", note="no latent output; sound is decoded", output="np"),
    Family("musicldm", musicldm, LDM, PROMPTS, "ddim"),
    Family("audioldm-2", audioldm2, {**LDM, "max_new_tokens": 4}, PROMPTS, "ddim"),
]
