"""How images are saved, shown and read: lossless PNG on disk, a data URI in the page, pictures of any format from data sets."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch
from PIL import Image

from tropism.errors import TropismError
from tropism_image.pictures import Pictures

PIXELATED = 128  # px; up to this size an enlarged image keeps its pixels visible
EMBEDDED = 320  # px; a larger image is embedded as a preview, or a page of some hundred tiles would be too heavy to open


class ImageView:
    """The view of every image generator."""

    kind = "image"

    def save(self, media: torch.Tensor, folder: Path, stem: str) -> str:
        """Write ``media`` (float [3, H, W] in [0, 1], clipped) as 8-bit ``<stem>.png`` into ``folder``; returns the file's name.

        Raises TropismError for another shape, or for values that are not finite.
        """
        if media.ndim != 3 or media.shape[0] != 3:
            raise TropismError(f"image {stem}: found shape {list(media.shape)}; expected [3, height, width]")
        if not torch.isfinite(media).all():
            raise TropismError(f"image {stem}: {int((~torch.isfinite(media)).sum())} values are not finite; expected floats in [0, 1]")
        pixels = (media.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{stem}.png"
        Image.fromarray(pixels.numpy(), "RGB").save(folder / name)
        return name

    def load(self, parts: Sequence[bytes], shape: tuple[int, ...]) -> torch.Tensor:
        """A picture of a data set in the policy's own size: float32 ``shape``, [3, H, W], in [0, 1]. Raises BadRow."""
        return Pictures((shape[1], shape[2]))(parts)

    def html(self, file: Path) -> str:
        """An ``<img>`` that holds the image itself: the file's bytes up to 320 px, a WebP preview above.

        Raises TropismError for a file that is no image.
        """
        try:
            with Image.open(file) as image:
                width, height = image.size
                data, form = (file.read_bytes(), "png") if max(width, height) <= EMBEDDED else (_preview(image), "webp")
        except OSError as error:
            raise TropismError(f"{file} cannot be shown: {error}") from error
        style = ' style="image-rendering:pixelated"' if max(width, height) <= PIXELATED else ""
        uri = f"data:image/{form};base64,{base64.b64encode(data).decode()}"
        return f'<img alt="sample {escape(file.stem)}" width="{width}" height="{height}"{style} src="{uri}">'


def _preview(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((EMBEDDED, EMBEDDED), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=85)
    return buffer.getvalue()
