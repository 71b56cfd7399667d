"""ImageReward's weights, in the layout of the original BLIP, read into transformers' BLIP towers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from tropism.errors import RewardError
from tropism_image.rewards.weights import whole

VISION_HEADS, TEXT_HEADS = 16, 12  # of ViT-L/16 and of BERT-base; the weights do not tell
VISION_PREFIX, TEXT_PREFIX = "blip.visual_encoder.", "blip.text_encoder."
# Written along but not used for the score: the contrastive projections of BLIP's pretraining, and a table of 0, 1, 2, ...
UNUSED = re.compile(r"blip\.(vision|text)_proj\..*|.*\.position_ids")
VISION_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def vision_name(key: str) -> str:
    """``blocks.3.attn.proj.weight`` -> ``encoder.layers.3.self_attn.projection.weight``. Raises RewardError for a name it does not know."""
    match = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+?)(\.weight|\.bias)?", key)
    if match is None or match[2] not in VISION_NAMES:
        raise RewardError(f"'{VISION_PREFIX}{key}' is no weight of BLIP's vision transformer")
    layer = f"encoder.layers.{match[1]}." if match[1] is not None else ""
    return f"{layer}{VISION_NAMES[match[2]]}{match[3] or ''}"


def build_blip(tensors: Mapping[str, torch.Tensor], source: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """BlipVisionModel and BlipTextModel, frozen, in evaluation mode. Widths and depths are read off the weights.

    BLIP's text tower already bears transformers' names. The weights must fill both towers exactly; RewardError names ``source``.
    """
    used = {key: value for key, value in tensors.items() if not UNUSED.fullmatch(key)}
    vision = {vision_name(key.removeprefix(VISION_PREFIX)): value for key, value in used.items() if key.startswith(VISION_PREFIX)}
    text = {key.removeprefix(TEXT_PREFIX): value for key, value in used.items() if key.startswith(TEXT_PREFIX)}
    try:
        vision_config, text_config = _vision_config(vision), _text_config(text)
    except KeyError as error:
        raise RewardError(f"{source} holds no ImageReward model: {error} is missing, found {sorted(tensors)[:3]}") from error
    # The pooler is left out, as in the original, which trains none.
    seeing = BlipVisionModel.from_pretrained(None, config=vision_config, state_dict=vision, dtype=dtype, output_loading_info=True)
    reading = BlipTextModel.from_pretrained(
        None, config=text_config, state_dict=text, dtype=dtype, output_loading_info=True, add_pooling_layer=False
    )
    return whole(seeing, str(source)), whole(reading, str(source))


def _vision_config(vision: Mapping[str, torch.Tensor]) -> BlipVisionConfig:
    patch = vision["embeddings.patch_embedding.weight"].shape[-1]
    return BlipVisionConfig(
        hidden_size=vision["embeddings.class_embedding"].shape[-1],
        intermediate_size=vision["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=sum(key.endswith("self_attn.qkv.weight") for key in vision),
        num_attention_heads=VISION_HEADS,
        image_size=round((vision["embeddings.position_embedding"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,  # of the original; transformers' default is 1e-5
        hidden_act="gelu",
    )


def _text_config(text: Mapping[str, torch.Tensor]) -> BlipTextConfig:
    words = text["embeddings.word_embeddings.weight"]
    return BlipTextConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        encoder_hidden_size=text["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=text["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=sum(key.endswith("intermediate.dense.weight") for key in text),
        num_attention_heads=TEXT_HEADS,  # transformers' default is 8
        max_position_embeddings=text["embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=1e-12,
        hidden_act="gelu",
        is_decoder=True,  # what transformers calls it when a layer has cross attention; the mask stays bidirectional
    )
