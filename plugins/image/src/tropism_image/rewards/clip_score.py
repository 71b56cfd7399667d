"""CLIPScore: how well a picture agrees with its prompt."""

from __future__ import annotations

import torch

from tropism_image.rewards.clip import load_clip


class ClipScore:
    """``scale * cos(picture, prompt)``, [B] float32: with the default scale 100 within [-100, 100], real pictures about 15 to 35.

    Hessel et al. 2021, "CLIPScore", arXiv:2104.08718, eq. 1, is 2.5 * max(cos, 0) on ViT-B/32 with "A photo depicts" before the caption;
    what is reported for text-to-image models is 100 * max(cos, 0) on ViT-L/14 with the bare prompt. This is the latter without the
    maximum: as a reward the clamp would say nothing about how bad a picture is, and would give it no gradient.

    model: transformers folder or model name, with its tokenizer. scale: factor on the cosine. dtype: of the weights.
    """

    differentiable = True

    def __init__(self, model: str = "openai/clip-vit-large-patch14", scale: float = 100.0, dtype: str = "float32") -> None:
        self.clip = load_clip(model, tokenizer=model, dtype=dtype)
        self.scale = scale

    def to(self, device: torch.device | str) -> ClipScore:
        self.clip.to(device)
        return self

    def __call__(self, image: torch.Tensor, prompt: list[str]) -> torch.Tensor:
        return self.scale * self.clip.cosine(image, prompt)
