"""PickScore: CLIP ViT-H/14 fine-tuned on half a million choices by users of text-to-image models."""

from __future__ import annotations

import torch

from tropism_image.rewards.clip import load_clip


class PickScore:
    """``exp(logit_scale) * cos(picture, prompt)``, [B] float32; the learned factor is near 100, real pictures score about 17 to 24.

    Kirstain et al. 2023, "Pick-a-Pic", arXiv:2305.01569, section 4: the softmax of two pictures' scores for a prompt is the
    probability that a user picks each, so a difference of 1 means odds of e. (Some trainers divide by 26; this is the raw score.)

    model: transformers folder or model name. processor: folder or name whose tokenizer is read (the published model has none of its own).
    dtype: of the weights.
    """

    differentiable = True

    def __init__(
        self,
        model: str = "yuvalkirstain/PickScore_v1",
        processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        dtype: str = "float32",
    ) -> None:
        self.clip = load_clip(model, tokenizer=processor, dtype=dtype)

    def to(self, device: torch.device | str) -> PickScore:
        self.clip.to(device)
        return self

    def __call__(self, image: torch.Tensor, prompt: list[str]) -> torch.Tensor:
        scale: torch.Tensor = self.clip.model.logit_scale.float().exp().to(image.device)
        return scale * self.clip.cosine(image, prompt)
