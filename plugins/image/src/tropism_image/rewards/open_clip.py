"""Weights in open_clip's layout, read into transformers' CLIPModel (open_clip itself is not needed)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from tropism.errors import RewardError
from tropism_image.rewards.weights import dtype_of, whole

WHOLE = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
}
NORMS = {
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
}
PROJECTIONS = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
BLOCK_PARTS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def to_transformers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's state dict of a two-tower ViT under transformers' names. Raises RewardError for a name that it does not know.

    Two things change beside names: open_clip keeps query, key and value as one matrix [3D, D], which is cut in three, and multiplies
    features by its projections from the right, which are therefore transposed.
    """
    renamed: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        stem, _, kind = key.rpartition(".")
        if key in WHOLE:
            renamed[WHOLE[key]] = value
        elif key in PROJECTIONS:
            renamed[PROJECTIONS[key]] = value.T.contiguous()
        elif stem in NORMS:
            renamed[f"{NORMS[stem]}.{kind}"] = value
        elif block := re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", key):
            renamed |= _block(f"{'vision' if block[1] else 'text'}_model.encoder.layers.{block[2]}", block[3], key, value)
        else:
            raise RewardError(f"'{key}' is no weight of an open_clip ViT, expected names such as visual.conv1.weight")
    return renamed


def _block(layer: str, part: str, key: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    if part in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = part.rpartition("_")[2]
        pieces = value.chunk(3, dim=0)
        return {f"{layer}.self_attn.{name}_proj.{kind}": piece.contiguous() for name, piece in zip("qkv", pieces, strict=True)}
    stem, _, kind = part.rpartition(".")
    if stem not in BLOCK_PARTS:
        raise RewardError(f"'{key}' is no weight of an open_clip transformer block")
    return {f"{layer}.{BLOCK_PARTS[stem]}.{kind}": value}


def config_of(tensors: Mapping[str, torch.Tensor], heads: int) -> CLIPConfig:
    """The shape of the model, read off its weights; only the number of attention heads cannot be (ViT-H/14 has 16 in both towers)."""
    depth = {
        tower: sum(key.startswith(tower) and key.endswith("in_proj_weight") for key in tensors) for tower in ("visual.", "transformer.")
    }
    grid = round((tensors["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    patch = tensors["visual.conv1.weight"].shape[-1]
    vocabulary = tensors["token_embedding.weight"].shape[0]
    embedding = tensors["visual.proj"].shape[1]
    common = {"num_attention_heads": heads, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "projection_dim": embedding}
    vision = {
        "hidden_size": tensors["visual.class_embedding"].shape[0],
        "intermediate_size": tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": depth["visual."],
        "image_size": grid * patch,
        "patch_size": patch,
    }
    text = {
        "hidden_size": tensors["token_embedding.weight"].shape[1],
        "intermediate_size": tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": depth["transformer."],
        "max_position_embeddings": tensors["positional_embedding"].shape[0],
        "vocab_size": vocabulary,
        # CLIP reads a prompt at its end token, which is the last of the vocabulary; its begin token is the one before.
        "eos_token_id": vocabulary - 1,
        "bos_token_id": vocabulary - 2,
    }
    return CLIPConfig(text_config=text | common, vision_config=vision | common, projection_dim=embedding)


def build_clip(tensors: Mapping[str, torch.Tensor], source: Path, heads: int, dtype: str) -> CLIPModel:
    """A frozen CLIPModel from weights in open_clip's layout. Raises RewardError, naming ``source``, unless they fill it exactly."""
    try:
        config = config_of(tensors, heads)
    except KeyError as error:
        raise RewardError(f"{source} holds no open_clip model: {error} is missing, found {sorted(tensors)[:3]}") from error
    renamed = to_transformers(tensors)
    loaded = CLIPModel.from_pretrained(None, config=config, state_dict=renamed, dtype=dtype_of(dtype), output_loading_info=True)
    model: CLIPModel = whole(loaded, str(source))
    return model
