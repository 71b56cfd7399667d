"""From a batch of pictures to what a vision encoder reads: checked, resized, cropped or padded, normalised; differentiable."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from tropism.errors import RewardError

# Mean and deviation per colour channel of CLIP's training pictures (Radford et al. 2021); BLIP and every reward here use the same.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# How far outside [0, 1] a picture may lie: float noise and 16-bit decoding pass, a picture in [-1, 1] or [0, 255] does not.
RANGE_SLACK = 0.02


def check_pictures(image: torch.Tensor) -> None:
    """Raise RewardError unless ``image`` is a finite, not empty float tensor [B, 3, H, W] in [0, 1] (with 0.02 of slack)."""
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point() or image.numel() == 0:
        raise RewardError(f"expected pictures as a float tensor [B, 3, H, W] in [0, 1], got {image.dtype} {list(image.shape)}")
    low, high = torch.stack(torch.aminmax(image.detach())).tolist()  # one wait for the device, not two
    if not (low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK):  # written so that NaN, which compares false, is refused too
        raise RewardError(f"expected pictures in [0, 1], got values from {low:.4g} to {high:.4g}; decode with (x / 2 + 0.5).clamp(0, 1)")


def check_pairs(image: torch.Tensor, prompt: list[str]) -> None:
    """``check_pictures``, and one prompt for each picture."""
    check_pictures(image)
    if isinstance(prompt, str) or len(prompt) != len(image):
        given = "one string" if isinstance(prompt, str) else f"{len(prompt)} prompts"
        raise RewardError(f"expected one prompt for each of {len(image)} pictures, got {given}")


def clip_pixels(image: torch.Tensor, size: int, fit: Literal["crop", "pad"] = "crop") -> torch.Tensor:
    """Pictures [B, 3, H, W] in [0, 1] to normalised float32 pixels [B, 3, size, size], as CLIP's image processor makes them.

    ``crop``: the short side becomes ``size`` and the long side is cut to its middle. ``pad``: the long side becomes ``size``, the rest is
    black.

    Bicubic with antialiasing, as Pillow does it: columns first, then rows. Pillow rounds to 8 bits after each of the two; this does not,
    since rounding has no gradient, so the two may differ by about one grey level (1/255 before normalisation).
    """
    check_pictures(image)
    pixels = image.float()
    height, width = pixels.shape[-2:]
    edge = min(height, width) if fit == "crop" else max(height, width)
    if fit == "crop":
        target = (int(size * height / edge), int(size * width / edge))
    else:
        target = (max(1, round(size * height / edge)), max(1, round(size * width / edge)))
    for step in ((height, target[1]), target):
        if step != tuple(pixels.shape[-2:]):
            pixels = F.interpolate(pixels, size=step, mode="bicubic", align_corners=False, antialias=True)
            # Bicubic overshoots at edges and 8-bit pictures cannot. The gradient goes straight through this clamp: on a white background
            # float noise puts about half the pixels a hair above 1, and a true clamp would cut the gradient there at random.
            pixels = pixels + (pixels.clamp(0, 1) - pixels).detach()
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    if fit == "crop":
        pixels = pixels[..., top : top + size, left : left + size]
    else:
        over_x, over_y = size - target[1], size - target[0]
        pixels = F.pad(pixels, (over_x // 2, over_x - over_x // 2, over_y // 2, over_y - over_y // 2))
    mean = pixels.new_tensor(CLIP_MEAN).view(1, 3, 1, 1)
    std = pixels.new_tensor(CLIP_STD).view(1, 3, 1, 1)
    return (pixels - mean) / std
