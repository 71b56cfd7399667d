"""LAION's aesthetic predictor: the mark, 1 to 10, that people would give a picture, whatever its prompt."""

from __future__ import annotations

import torch

from tropism.errors import RewardError
from tropism_image.rewards.clip import load_clip
from tropism_image.rewards.head import linear_head
from tropism_image.rewards.weights import TORCH_SUFFIXES, find_weights, read_safetensors, read_torch_tensors

# The published files, by the name that a recipe may use for them, and the repository that holds each.
PUBLISHED = {
    "v2": ("sac+logos+ava1-l14-linearMSE.pth", "christophschuhmann/improved-aesthetic-predictor"),
    "v1": ("sa_0_4_vit_l_14_linear.pth", "LAION-AI/aesthetic-predictor"),
}


class Aesthetic:
    """``head(f)``, f the unit CLIP embedding of the picture: [B] float32, about 4 to 7 for real pictures (trained on marks of 1 to 10).

    Schuhmann et al. 2022, "LAION-5B", arXiv:2210.08402. v2, the one in DDPO and most later work, is linear layers 768-1024-128-64-16-1
    with no activation between them; v1 is one linear layer. Which of the two a file holds is read off its weights.

    head: "v2", "v1" (the published file, looked for in the working directory and in the folder TROPISM_WEIGHTS), or the path of a
    safetensors or torch file; the latter is read with ``weights_only=True``. clip: transformers folder or model name; it must be the one
    that the head was trained on. dtype: of the CLIP weights; the head is float32.
    """

    differentiable = True

    def __init__(self, head: str = "v2", clip: str = "openai/clip-vit-large-patch14", dtype: str = "float32") -> None:
        name, origin = PUBLISHED.get(head, (head, ""))
        remedy = f"take {name} from the repository {origin}" if origin else "give 'v2', 'v1', or the path of a head in safetensors or .pth"
        path = find_weights(name, remedy)
        tensors = read_torch_tensors(path) if path.suffix in TORCH_SUFFIXES else read_safetensors(path, remedy)
        self.head = linear_head(tensors, str(path))
        self.clip = load_clip(clip, tokenizer=None, dtype=dtype)
        expected = self.head[0].in_features
        if self.clip.width != expected:
            raise RewardError(f"{path} scores embeddings of {expected} numbers, '{clip}' gives {self.clip.width}; they are not of one kind")

    def to(self, device: torch.device | str) -> Aesthetic:
        self.clip.to(device)
        self.head.to(device)
        return self

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        marks: torch.Tensor = self.head(self.clip.pictures(image))
        return marks.squeeze(-1).to(image.device)
