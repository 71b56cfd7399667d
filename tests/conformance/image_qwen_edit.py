"""Qwen-Image-Edit: the picture goes both into the text encoder, which sees it, and beside x along tokens.

The pipeline scales every reference picture to 1024x1024 pixels. To keep that cheap, the autoencoder here averages 16x16 pixels before it
encodes, and is said to be 64 times as wide as its latents.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, QwenImageEditPipeline
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.conformance import parts
from tests.conformance.family import Family
from tests.conformance.image_flow import QWEN, qwen_transformer
from tests.conformance.parts import PROMPTS, built

POOL = 16


class PooledAutoencoder(AutoencoderKLQwenImage):
    """An encoder of pictures that are averaged first; decoding gives small pictures."""

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """Pixels (B, 3, 1, H, W) to the distribution of latents (B, C, 1, H / 64, W / 64)."""
        return super().encode(torch.nn.functional.avg_pool3d(x, (1, POOL, POOL)), return_dict)


class Reader:
    """Qwen2-VL's processor without its video part, which needs another library: every picture becomes four tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.images = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=56 * 56)

    def __call__(self, text: list[str], images: Image.Image, padding: bool, return_tensors: str) -> BatchFeature:
        pixels = self.images([images] * len(text), return_tensors=return_tensors)
        tokens = int(pixels["image_grid_thw"][0].prod()) // self.images.merge_size**2
        longer = [line.replace("<|image_pad|>", "<|image_pad|>" * tokens) for line in text]
        return BatchFeature({**self.tokenizer(longer, padding=padding, return_tensors=return_tensors), **pixels})


@built
def qwen_image_edit() -> DiffusionPipeline:
    words = parts.qwen_tokenizer()
    vae = PooledAutoencoder.from_config(parts.kl_qwen().config)
    pipe = QwenImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**QWEN),
        vae=parts.fill(vae),
        text_encoder=parts.qwen25_vl(words),
        tokenizer=words,
        processor=Reader(words),
        transformer=qwen_transformer(),
    )
    pipe.vae_scale_factor *= POOL
    return pipe


FAMILIES: list[Family] = [
    Family(
        "qwen-image-edit",
        qwen_image_edit,
        {"height": 512, "width": 512, "image": parts.picture(64), "true_cfg_scale": 4.0, "negative_prompt": " "},
        PROMPTS,
        "ode",
        note="as qwen-image, with a reference image joined along tokens and read by the text encoder; decoded pictures are 32 pixels wide",
    )
]
