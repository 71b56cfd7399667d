"""Clips of data sets as tensors: frames as pictures, animated WebP, PNG or GIF, and, where decord is installed, video files."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Sequence

import torch
from PIL import Image, UnidentifiedImageError

from tropism.data.faults import BadRow
from tropism.errors import TropismError
from tropism_image.pictures import PIXELS, Pictures

FRAMES = 4096  # more than any clip that a generator of today makes


class Clips:
    """Bytes of a clip, or of its frames in order -> float32 [F, 3, H, W] in [0, 1], cut and scaled as pictures are.

    shape: (F, H, W). The frames are taken at F moments spread evenly over the clip. Every file is bounded before it is decoded: 4,096
    frames, 16 million pixels a frame. Raises BadRow; TropismError where a video file needs decord and it is not installed.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.count, self.picture = shape[0], Pictures(shape[1:])

    def __call__(self, parts: Sequence[bytes]) -> torch.Tensor:
        if not parts or len(parts) > FRAMES:
            raise BadRow("unreadable media", f"found {len(parts)} frames; expected 1 to {FRAMES}")
        if len(parts) > 1:
            return torch.stack([self.picture([parts[place]]) for place in self._places([1.0] * len(parts))])
        try:
            return self._animated(parts[0])
        except UnidentifiedImageError:
            return self._video(parts[0])
        except (OSError, SyntaxError, ValueError) as error:
            raise BadRow("unreadable media", f"damaged clip: {error}") from error

    def _places(self, lasting: Sequence[float]) -> list[int]:
        """Which frame is shown at the middle of each of ``count`` equal parts of the time."""
        ends = torch.tensor(lasting, dtype=torch.float64).cumsum(0)
        moments = (torch.arange(self.count, dtype=torch.float64) + 0.5) / self.count * ends[-1]
        return torch.searchsorted(ends, moments, right=True).clamp(max=len(lasting) - 1).tolist()

    def _animated(self, data: bytes) -> torch.Tensor:
        """An animated picture; writers join equal frames to one that lasts longer, so it is read by time."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            count = getattr(image, "n_frames", 1)
            if count > FRAMES or image.width * image.height > PIXELS:
                raise BadRow("huge media", f"{count} frames of {image.width} x {image.height} pixels; the limits are {FRAMES} and {PIXELS}")
            lasting = []
            for index in range(count):
                image.seek(index)
                image.load()
                lasting.append(max(float(image.info.get("duration", 0)), 1.0))
            made = {}
            for place in self._places(lasting):
                image.seek(place)
                if place not in made:
                    made[place] = self.picture.tensor(image.copy())
            return torch.stack([made[place] for place in self._places(lasting)])

    def _video(self, data: bytes) -> torch.Tensor:
        try:
            decord = importlib.import_module("decord")
        except ImportError as error:
            raise TropismError("reading video files needs decord: pip install 'tropism-video[files]'; or store clips as frames") from error
        try:
            reader = decord.VideoReader(io.BytesIO(data))
            if not 1 <= len(reader) <= FRAMES or reader[0].shape[0] * reader[0].shape[1] > PIXELS:
                raise BadRow(
                    "huge media", f"{len(reader)} frames of {list(reader[0].shape[:2])} pixels; the limits are {FRAMES} and {PIXELS}"
                )
            frames = reader.get_batch(self._places([1.0] * len(reader))).asnumpy()
        except (RuntimeError, decord.DECORDError) as error:
            raise BadRow("unreadable media", f"not a clip of a known format: {error}") from error
        return torch.stack([self.picture.tensor(Image.fromarray(frame)) for frame in frames])
