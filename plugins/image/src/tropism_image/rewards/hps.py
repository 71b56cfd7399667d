"""HPS v2: CLIP ViT-H/14 fine-tuned on 800 thousand human comparisons of generated pictures."""

from __future__ import annotations

import torch

from tropism_image.rewards.clip import ClipEncoder, load_clip, load_tokenizer
from tropism_image.rewards.open_clip import build_clip
from tropism_image.rewards.weights import find_weights, read_safetensors

REMEDY = (
    "take HPS_v2.1_compressed.pt (v2.1) or HPS_v2_compressed.pt (v2.0) from the model repository xswu/HPSv2 and convert it once:\n"
    "  python -m tropism_image.rewards.convert HPS_v2.1_compressed.pt HPS_v2.1.safetensors"
)
HEADS = 16  # of both towers of ViT-H/14 (vision 1280 / 80, text 1024 / 64)


class HPSv2:
    """``cos(picture, prompt)``, [B] float32; real pictures about 0.2 to 0.35 (papers often print 100 times that).

    Wu et al. 2023, "Human Preference Score v2", arXiv:2306.09341, section 4. The network multiplies the cosine by its learned scale for
    training; the published score is the plain cosine, and so is this. v2 and v2.1 differ in their weights alone. Pictures that are not
    square are padded with black, not cropped.

    model: the converted safetensors file (open_clip's names), or a transformers CLIPModel folder; looked for in the working directory and
    in the folder TROPISM_WEIGHTS. tokenizer: folder or model name of CLIP's tokenizer. dtype: of the weights.
    """

    differentiable = True

    def __init__(
        self,
        model: str = "HPS_v2.1.safetensors",
        tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        dtype: str = "float32",
    ) -> None:
        path = find_weights(model, REMEDY)
        if path.is_dir():
            self.clip = load_clip(str(path), tokenizer, dtype, fit="pad")
        else:
            network = build_clip(read_safetensors(path, REMEDY), path, HEADS, dtype)
            self.clip = ClipEncoder(network, load_tokenizer(tokenizer), fit="pad")

    def to(self, device: torch.device | str) -> HPSv2:
        self.clip.to(device)
        return self

    def __call__(self, image: torch.Tensor, prompt: list[str]) -> torch.Tensor:
        return self.clip.cosine(image, prompt)
