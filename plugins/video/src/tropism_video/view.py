"""How clips are saved, shown and read: a lossless animated WebP on disk, a small one in the page above a strip of frames."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch
from PIL import Image, ImageSequence

from tropism.errors import TropismError
from tropism_video.clips import Clips
from tropism_video.rewards.frames import spread

RATE = 16  # frames a second, Wan's
EMBEDDED = 240  # px of the longer side in the page
STRIP = 6  # frames beside each other


class VideoView:
    """The view of every generator of clips."""

    kind = "video"

    def save(self, media: torch.Tensor, folder: Path, stem: str) -> str:
        """Write ``media`` (float [F, 3, H, W] in [0, 1], clipped) as 8-bit ``<stem>.webp`` into ``folder``; returns the file's name.

        Raises TropismError for another shape, or for values that are not finite.
        """
        if media.ndim != 4 or media.shape[1] != 3 or len(media) == 0:
            raise TropismError(f"clip {stem}: found shape {list(media.shape)}; expected [frames, 3, height, width]")
        if not torch.isfinite(media).all():
            raise TropismError(f"clip {stem}: {int((~torch.isfinite(media)).sum())} values are not finite; expected floats in [0, 1]")
        pixels = (media.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{stem}.webp"
        (folder / name).write_bytes(_animated([Image.fromarray(frame) for frame in pixels.numpy()], lossless=True))
        return name

    def load(self, parts: Sequence[bytes], shape: tuple[int, ...]) -> torch.Tensor:
        """A clip of a data set in the policy's own size: float32 ``shape``, [F, 3, H, W], in [0, 1]. Raises BadRow."""
        return Clips((shape[0], shape[2], shape[3]))(parts)

    def html(self, file: Path) -> str:
        """Two ``<img>`` that hold a small animation and a strip of frames. Raises TropismError for a file that is no clip."""
        try:
            with Image.open(file) as image:
                frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
        except OSError as error:
            raise TropismError(f"{file} cannot be shown: {error}") from error
        for frame in frames:
            frame.thumbnail((EMBEDDED, EMBEDDED), Image.Resampling.LANCZOS)
        chosen = [frames[place] for place in spread(len(frames), STRIP).tolist()]
        width, height = frames[0].size
        strip = Image.new("RGB", (width * len(chosen), height))
        for place, frame in enumerate(chosen):
            strip.paste(frame, (place * width, 0))
        return _embedded(_animated(frames, lossless=False), f"clip {file.stem}", width) + _embedded(
            _animated([strip], lossless=False), f"frames of {file.stem}", strip.width
        )


def _animated(frames: Sequence[Image.Image], lossless: bool) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[1:], duration=1000 // RATE, loop=0, lossless=lossless, quality=80, exact=True
    )
    return buffer.getvalue()


def _embedded(data: bytes, says: str, width: int) -> str:
    uri = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{escape(says)}" width="{width}" style="max-width:100%" src="{uri}">'
