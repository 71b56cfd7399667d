"""ImageReward: a BLIP trained on experts' rankings of generated pictures."""

from __future__ import annotations

import torch
from transformers import BertTokenizer

from tropism.errors import RewardError
from tropism_image.rewards.blip import build_blip
from tropism_image.rewards.head import linear_head
from tropism_image.rewards.preprocess import check_pairs, clip_pixels
from tropism_image.rewards.weights import dtype_of, find_weights, read_safetensors

REMEDY = (
    "take ImageReward.pt from the model repository THUDM/ImageReward and convert it once:\n"
    "  python -m tropism_image.rewards.convert ImageReward.pt ImageReward.safetensors"
)
# Mean and deviation of the raw output over the authors' data; published scores are standardised with them.
RAW_MEAN, RAW_STD = 0.16717362830052426, 1.0333394966054072
PROMPT_TOKENS = 35


class ImageReward:
    """``(mlp(h) - 0.1672) / 1.0333``, [B] float32, mean 0 and deviation 1 on the authors' data; real pictures about -2.5 to 2.

    Xu et al. 2023, "ImageReward", arXiv:2304.05977, section 3.2. h is the first token of a BERT that reads the prompt (35 tokens at most)
    and looks at the picture, encoded by a ViT-L/16 at 224 pixels, through cross attention in every layer; the mlp is linear layers
    768-1024-128-64-16-1 with no activation between them, run in float32.

    model: the converted safetensors file (the authors' names), looked for in the working directory and in the folder TROPISM_WEIGHTS.
    tokenizer: folder or model name of BERT's uncased tokenizer. dtype: of the BLIP weights.
    """

    differentiable = True

    def __init__(
        self, model: str = "ImageReward.safetensors", tokenizer: str = "google-bert/bert-base-uncased", dtype: str = "float32"
    ) -> None:
        precision = dtype_of(dtype)
        path = find_weights(model, REMEDY)
        tensors = read_safetensors(path, REMEDY)
        self.vision, self.text = build_blip(tensors, path, precision)
        self.head = linear_head({key.removeprefix("mlp."): value for key, value in tensors.items() if key.startswith("mlp.")}, str(path))
        try:
            self.tokenizer = BertTokenizer.from_pretrained(tokenizer)
        except (OSError, ValueError) as error:
            remedy = "give a folder with vocab.txt, or the name of a model that was downloaded before"
            message = f"no BERT tokenizer '{tokenizer}': no such folder, and no model that can be had\n  {remedy}\n  {error}"
            raise RewardError(message) from error

    def to(self, device: torch.device | str) -> ImageReward:
        self.vision.to(device)
        self.text.to(device)
        self.head.to(device)
        return self

    def __call__(self, image: torch.Tensor, prompt: list[str]) -> torch.Tensor:
        check_pairs(image, prompt)
        device = self.vision.device
        pixels = clip_pixels(image.to(device), self.vision.config.image_size)
        seen = self.vision(pixel_values=pixels.to(self.vision.dtype)).last_hidden_state
        tokens = self.tokenizer(prompt, padding="max_length", truncation=True, max_length=PROMPT_TOKENS, return_tensors="pt").to(device)
        # No mask over the picture: every patch is looked at.
        read = self.text(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, encoder_hidden_states=seen, is_decoder=False)
        raw: torch.Tensor = self.head(read.last_hidden_state[:, 0].float()).squeeze(-1)
        return ((raw - RAW_MEAN) / RAW_STD).to(image.device)
