"""Tiny diffusers pipelines with random weights: every part of a real one, built in milliseconds, nothing downloaded."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LENGTH, WIDTH, SIDE = 24, 16, 8  # tokens, text width, side of the latents
START, END = "<|startoftext|>", "<|endoftext|>"
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that knows single characters and no merges."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = [START, END, *letters, *(letter + "</w>" for letter in letters)]
    with tempfile.TemporaryDirectory() as folder:
        words, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        words.write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(words), str(merges), model_max_length=LENGTH, unk_token=END, pad_token=END)


def text_config(words: int, layers: int = 1, length: int = LENGTH, hidden_act: str = "quick_gelu") -> CLIPTextConfig:
    """A text encoder for the tokenizer above, with ``length`` positions."""
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=length,
        hidden_act=hidden_act,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def text_encoder(words: int) -> CLIPTextModel:
    return spread(CLIPTextModel(text_config(words)))


def unet(guidance_embedding: int | None = None) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        time_cond_proj_dim=guidance_embedding,
    )


def autoencoder() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)
    )


def spread(network: torch.nn.Module, scale: float = 0.3) -> torch.nn.Module:
    """Make prompts matter: with the usual initial weights all texts are nearly alike, and a test on conditions could not fail."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale)
    return network


def _parts(guidance_embedding: int | None) -> dict[str, Any]:
    torch.manual_seed(7)
    words = tokenizer()
    parts = {"vae": autoencoder(), "text_encoder": text_encoder(len(words)), "tokenizer": words, "unet": unet(guidance_embedding)}
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return {**parts, "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def stable_diffusion(**scheduler: Any) -> StableDiffusionPipeline:
    """A Stable Diffusion with classifier-free guidance; ``scheduler`` changes the settings of its DDIMScheduler."""
    settings = {**BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **scheduler}
    pipe = StableDiffusionPipeline(**_parts(None), scheduler=DDIMScheduler(**settings))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latent_consistency() -> LatentConsistencyModelPipeline:
    """A latent consistency model: guidance is an embedding, one forward per step."""
    pipe = LatentConsistencyModelPipeline(**_parts(32), scheduler=LCMScheduler(**BETAS, original_inference_steps=50))
    pipe.set_progress_bar_config(disable=True)
    return pipe
