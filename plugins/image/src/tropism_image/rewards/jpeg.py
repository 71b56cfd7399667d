"""The size of a picture as a JPEG file: the reward that needs no weights."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from tropism.errors import RewardError
from tropism_image.rewards.preprocess import check_pictures

# Below this many pictures starting threads costs more than it saves.
FEW = 4


class JpegSize:
    """Bytes of the JPEG encoding of each picture / 1000, [B] float32 (kB of 1000 bytes, headers included).

    Black et al. 2024, "Training Diffusion Models with Reinforcement Learning", arXiv:2305.13301, section 5.1: weight +1 asks for
    incompressible pictures, -1 for compressible ones. As there, pixels are rounded to 8 bits and quality is 95; other settings are
    Pillow's defaults (4:2:0 colour). A 512x512 photograph has about 100 to 200, a grey one 5, noise 300.

    quality: of the JPEG, 1 to 95.
    """

    differentiable = False
    unit = "kB"

    def __init__(self, quality: int = 95) -> None:
        if not 1 <= quality <= 95:
            raise RewardError(f"JPEG quality {quality} is outside 1 to 95")
        self.quality = quality

    def to(self, device: torch.device | str) -> JpegSize:
        """Nothing to move: the encoder runs on the CPU."""
        return self

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        check_pictures(image)
        bytes_per_channel = (image.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)
        pictures = list(bytes_per_channel.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        if len(pictures) < FEW:
            sizes = [self._size(picture) for picture in pictures]
        else:
            # The encoder lets go of Python's lock. Each picture is encoded alone and map keeps the order, so threads change no result.
            with ThreadPoolExecutor(min(len(pictures), os.cpu_count() or 1)) as pool:
                sizes = list(pool.map(self._size, pictures))
        return torch.tensor(sizes, dtype=torch.float32, device=image.device)

    def _size(self, picture: np.ndarray) -> float:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=self.quality)
        return buffer.tell() / 1000
