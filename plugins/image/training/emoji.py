"""The emoji set: 1,646 pictures of Microsoft's Fluent 3D emoji (MIT) with the Unicode CLDR names as captions.

``python emoji.py emoji.npz`` makes the file from two npm packages (``@lobehub/fluent-emoji-3d`` for pictures, ``emojibase-data``
for names; npm must be installed). Fields: image [N, 64, 64, 3] uint8 on white, caption, tags, group, hexcode.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

PICTURES, NAMES = "@lobehub/fluent-emoji-3d@1.1.0", "emojibase-data@17.0.0"
# What the generator learns. Flags, people, objects and signs would take most of a two-million-parameter network.
GENERATED = ("smileys & emotion", "animals & nature", "food & drink", "travel & places")
# Named by the documentation and the demo, so never held out.
SHOWN = (
    "red apple", "cat face", "umbrella", "grinning face", "frog", "pizza", "sunflower", "penguin", "rocket", "ghost", "strawberry",
    "dog face", "octopus", "cactus", "crying face", "tiger face",
)  # fmt: skip


@dataclass
class Emoji:
    """Pictures [N, 3, 64, 64] uint8 with their captions; ``heldout`` marks the tenth that no model here has seen."""

    image: torch.Tensor
    caption: list[str]
    tags: list[list[str]]
    group: list[str]
    heldout: torch.Tensor

    def subset(self, mask: torch.Tensor) -> Emoji:
        keep = mask.nonzero().flatten().tolist()
        pick = lambda values: [values[i] for i in keep]  # noqa: E731
        return Emoji(self.image[keep], pick(self.caption), pick(self.tags), pick(self.group), self.heldout[keep])

    def generated(self) -> Emoji:
        """The groups of ``GENERATED``, without the 24 clock faces."""
        chosen = [g in GENERATED and "o’clock" not in c and "-thirty" not in c for g, c in zip(self.group, self.caption, strict=True)]
        return self.subset(torch.tensor(chosen))

    def seen(self) -> Emoji:
        return self.subset(~self.heldout)

    def text(self, rng: np.random.Generator) -> list[str]:
        """One text for each picture: the caption, or the caption with some of its tags, or tags alone."""
        texts = []
        for caption, tags in zip(self.caption, self.tags, strict=True):
            kind = rng.random()
            some = list(rng.permutation(tags)[: rng.integers(1, 4)]) if tags else []
            texts.append(caption if kind < 0.7 or not some else " ".join([caption, *some] if kind < 0.85 else some))
        return texts


def load(path: Path) -> Emoji:
    """Read the file and mark the held-out captions (a tenth, seed 0, none of ``SHOWN``)."""
    data = np.load(path, allow_pickle=False)
    caption = [str(c).lower() for c in data["caption"]]
    heldout = np.random.default_rng(0).random(len(caption)) < 0.1
    heldout &= ~np.isin(caption, SHOWN)
    image = torch.from_numpy(data["image"]).permute(0, 3, 1, 2).contiguous()
    tags = [str(t).lower().split() for t in data["tags"]]
    return Emoji(image, caption, tags, [str(g) for g in data["group"]], torch.from_numpy(heldout))


def augment(image: torch.Tensor, generator: torch.Generator, flips: float = 0.5) -> torch.Tensor:
    """Resize and shift pictures on white, and flip a share ``flips`` of them. [B, 3, 64, 64] in [0, 1] -> the same."""
    count = len(image)
    draw = lambda low, high: low + (high - low) * torch.rand(count, generator=generator)  # noqa: E731
    scale = draw(0.8, 1.0)
    flip = torch.where(torch.rand(count, generator=generator) < flips, -1.0, 1.0)
    shift = torch.stack([draw(-1, 1), draw(-1, 1)], 1) * (1.02 - scale)[:, None] / scale[:, None]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = flip / scale, 1 / scale, shift
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return 1 - F.grid_sample(1 - image, grid, align_corners=False, mode="bilinear", padding_mode="zeros")


def make(path: Path) -> None:
    """Build the file from the two npm packages."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        archives = [
            subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True, capture_output=True, text=True).stdout.split()[-1]
            for name in (PICTURES, NAMES)
        ]
        with tarfile.open(Path(folder) / archives[1]) as names:
            entries = json.load(names.extractfile("package/en/data.json"))
            messages = json.load(names.extractfile("package/en/messages.json"))
        groups = {group["order"]: group["message"] for group in messages["groups"]}
        rows = []
        with tarfile.open(Path(folder) / archives[0]) as pictures:
            files = set(pictures.getnames())
            for entry in entries:
                name = f"package/assets/{entry['hexcode'].lower()}.webp"
                if "group" not in entry or name not in files:
                    continue
                picture = Image.open(io.BytesIO(pictures.extractfile(name).read())).convert("RGBA")
                white = Image.new("RGBA", picture.size, "white")
                white.alpha_composite(picture)
                small = white.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
                rows.append((np.asarray(small), entry["label"], " ".join(entry.get("tags", [])), groups[entry["group"]], entry["hexcode"]))
    image, caption, tags, group, hexcode = zip(*rows, strict=True)
    np.savez_compressed(path, image=np.stack(image), caption=caption, tags=tags, group=group, hexcode=hexcode)
    print(f"{path}: {len(rows)} pictures")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
