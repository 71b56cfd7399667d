"""A frozen CLIP as rewards use it: unit embeddings of pictures (differentiable) and of prompts."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer

from tropism.errors import RewardError
from tropism_image.rewards.preprocess import check_pairs, clip_pixels
from tropism_image.rewards.weights import dtype_of, whole


class ClipEncoder:
    """A CLIPModel, already frozen and in evaluation mode, with its tokenizer (None for rewards that read no prompt).

    ``fit`` says how pictures that are not square meet the square input (see ``clip_pixels``). Weights run in their own dtype; embeddings
    are normalised, and so scores computed, in float32.
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer | None, fit: Literal["crop", "pad"] = "crop") -> None:
        self.model: Any = model  # transformers' own annotations do not hold
        self.tokenizer = tokenizer
        self.fit: Literal["crop", "pad"] = fit

    def to(self, device: torch.device | str) -> ClipEncoder:
        self.model.to(device)
        return self

    @property
    def width(self) -> int:
        """Dimension D of the shared embedding."""
        return int(self.model.config.projection_dim)

    def pictures(self, image: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, H, W] in [0, 1] -> unit vectors [B, D], float32, on the model's device, with gradient to ``image``."""
        pixels = clip_pixels(image.to(self.model.device), self.model.config.vision_config.image_size, self.fit)
        features = self.model.get_image_features(pixel_values=pixels.to(self.model.dtype)).pooler_output
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def prompts(self, prompt: list[str]) -> torch.Tensor:
        """B prompts -> unit vectors [B, D], float32; cut after 77 tokens (or what the model takes). Equal prompts are encoded once."""
        if self.tokenizer is None:
            raise RewardError("this CLIP was loaded without a tokenizer, so it embeds no prompts")
        distinct = {text: index for index, text in enumerate(dict.fromkeys(prompt))}
        length = self.model.config.text_config.max_position_embeddings
        # Always the full length: a length that followed the longest prompt of the batch would change float sums from batch to batch.
        tokens = self.tokenizer(list(distinct), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        features = self.model.get_text_features(**tokens.to(self.model.device)).pooler_output
        rows = torch.tensor([distinct[text] for text in prompt], device=features.device)
        return F.normalize(features.float(), dim=-1)[rows]

    def cosine(self, image: torch.Tensor, prompt: list[str]) -> torch.Tensor:
        """Cosine between each picture [B, 3, H, W] and its own prompt: [B] in [-1, 1], float32, on the device of ``image``."""
        check_pairs(image, prompt)
        return (self.pictures(image) * self.prompts(prompt)).sum(-1).to(image.device)


def load_tokenizer(name: str) -> CLIPTokenizer:
    """CLIP's tokenizer from a folder (vocab.json and merges.txt, or tokenizer.json) or a model name. RewardError where there is none."""
    try:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        remedy = "give a folder with vocab.json and merges.txt, or the name of a model that was downloaded before"
        raise RewardError(f"no CLIP tokenizer '{name}': no such folder, and no model that can be had\n  {remedy}\n  {error}") from error
    return tokenizer


def load_clip(model: str, tokenizer: str | None, dtype: str, fit: Literal["crop", "pad"] = "crop") -> ClipEncoder:
    """A ClipEncoder from a transformers folder or model name (safetensors alone). ``tokenizer``: folder or name, None for no prompts.

    Raises RewardError where there is no such model, and where the checkpoint lacks weights, which transformers would fill with noise.
    """
    precision = dtype_of(dtype)
    try:
        loaded = CLIPModel.from_pretrained(model, dtype=precision, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError) as error:
        remedy = "give a folder with config.json and model.safetensors, or the name of a model that was downloaded before"
        raise RewardError(f"no CLIP model '{model}': no such folder, and no model that can be had\n  {remedy}\n  {error}") from error
    # A published folder may carry more than CLIP, such as a head used in training; what the score needs is there all the same.
    return ClipEncoder(whole(loaded, model, extra_allowed=True), load_tokenizer(tokenizer) if tokenizer is not None else None, fit)
