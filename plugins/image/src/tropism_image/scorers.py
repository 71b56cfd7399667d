"""Two small image-text scorers of our own, trained on the emoji set: one to train on, one that only ever evaluates.

Both are dual encoders in the manner of CLIP (arXiv 2103.00020): unit vectors of a picture and of a text, trained so that pairs agree. They
share neither architecture nor seed nor tokens, so that what fools one need not fool the other.

- ``conv``: five strided convolutions; mean of word-piece hashes.
- ``patch``: a transformer over 8x8 patches; mean of letter-trigram hashes.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tropism.errors import RewardError

BUCKETS, WIDTH, PIXELS = 1024, 64, 64


class TextTower(torch.nn.Module):
    """A bag of hashed pieces: [B] texts -> [B, WIDTH]. ``trigrams`` takes letter triples instead of whole words."""

    def __init__(self, trigrams: bool) -> None:
        super().__init__()
        self.trigrams = trigrams
        self.bag = torch.nn.EmbeddingBag(BUCKETS, WIDTH, mode="mean")
        self.head = torch.nn.Sequential(
            torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.GELU(), torch.nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, texts: list[str]) -> torch.Tensor:
        pieces = [self.pieces(text) for text in texts]
        device = self.bag.weight.device
        flat = torch.tensor([zlib.crc32(p.encode()) % BUCKETS for some in pieces for p in some], device=device)
        starts = torch.tensor([0, *(len(some) for some in pieces[:-1])], device=device).cumsum(0)
        bag: torch.Tensor = self.bag(flat, starts)
        lifted: torch.Tensor = self.head(bag)
        return bag + lifted

    def pieces(self, text: str) -> list[str]:
        words = re.findall(r"\w+", text.lower()) or [""]
        if not self.trigrams:
            # A word and its stem: "smiling" and "smile" share a piece.
            return [piece for word in words for piece in (word, word[:4])]
        return [f" {word} "[i : i + 3] for word in words for i in range(max(1, len(word)))]


class ConvTower(torch.nn.Module):
    """[B, 3, 64, 64] in [0, 1] -> [B, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 40, 64, 96)
        layers: list[torch.nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [torch.nn.Conv2d(before, after, 3, 2, 1), torch.nn.GroupNorm(4, after), torch.nn.GELU()]
        self.layers = torch.nn.Sequential(*layers)
        self.head = torch.nn.Linear(96 * 4, WIDTH)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # A 2x2 grid of means keeps a little of where things are.
        projected: torch.Tensor = self.head(F.adaptive_avg_pool2d(self.layers(image * 2 - 1), 2).flatten(1))
        return projected


class PatchTower(torch.nn.Module):
    """[B, 3, 64, 64] in [0, 1] -> [B, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = torch.nn.Conv2d(3, WIDTH, 8, 8)
        self.place = torch.nn.Parameter(torch.zeros(1, 64, WIDTH))
        block = torch.nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = torch.nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = torch.nn.Sequential(torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, WIDTH))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(image * 2 - 1).flatten(2).transpose(1, 2) + self.place
        projected: torch.Tensor = self.head(self.blocks(tokens).mean(1))
        return projected


class Scorer(torch.nn.Module):
    """A dual encoder: ``features`` of pictures, and ``forward`` the cosine of picture and text."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind not in ("conv", "patch"):
            raise RewardError(f"scorer kind '{kind}'; expected 'conv' or 'patch'")
        self.kind = kind
        self.picture = ConvTower() if kind == "conv" else PatchTower()
        self.text = TextTower(trigrams=kind == "patch")

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, WIDTH] of pictures [B, 3, H, W] in [0, 1]; other sizes are resized to 64x64."""
        if image.shape[-2:] != (PIXELS, PIXELS):
            image = F.interpolate(image, (PIXELS, PIXELS), mode="bilinear", antialias=True)
        return F.normalize(self.picture(image.float()), dim=1)

    def forward(self, image: torch.Tensor, prompt: list[str]) -> torch.Tensor:
        """Cosine similarity [B] in [-1, 1]."""
        return (self.features(image) * F.normalize(self.text(prompt), dim=1)).sum(1)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.half().contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"kind": self.kind}))

    @staticmethod
    def from_pretrained(folder: Path) -> Scorer:
        """Load a folder, frozen and in float32. Raises RewardError where there is none."""
        try:
            scorer = Scorer(json.loads((folder / "config.json").read_text())["kind"])
            scorer.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise RewardError(
                f"no scorer in {folder}: {error}; expected config.json and model.safetensors as Scorer.save_pretrained writes them"
            ) from error
        return scorer.requires_grad_(False).eval()
