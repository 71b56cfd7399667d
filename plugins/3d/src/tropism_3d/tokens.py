"""Prompts of ``3d/trellis``: pictures as DINOv2's tokens, made once with TRELLIS' own pipeline, as they cost more than they take to keep.

tokens = pipeline.encode_image([pipeline.preprocess_image(picture)])[0]
numpy.savez(folder / "chair.npz", tokens=tokens.float().cpu().numpy())
"""

from __future__ import annotations

from pathlib import Path

from tropism.errors import RecipeError
from tropism.types import Item

MOST = 1_000_000  # pictures


class PictureTokens:
    """``train`` and ``heldout``: items of the npz files in two folders, in the order of their names; one folder stands for both.

    An item is ``{"prompt": "chair", "tokens": "folder/chair.npz"}``; what a file holds is read and checked when it is sampled from.
    """

    def __init__(self, train: str, heldout: str | None = None) -> None:
        self.train = _items(Path(train))
        self.heldout = _items(Path(heldout)) if heldout is not None else self.train


def _items(folder: Path) -> list[Item]:
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not 1 <= len(files) <= MOST:
        raise RecipeError(
            f"3d/picture-tokens: {folder} has {len(files)} npz files; expected a folder of 1 to {MOST:,}, one for each picture, with "
            "'tokens' [T, C] that TRELLIS' encode_image gave"
        )
    return [{"prompt": file.stem, "tokens": str(file)} for file in files]
