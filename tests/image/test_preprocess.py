"""Pixels as CLIP's own image processor makes them, but with a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tropism.errors import RewardError
from tropism_image.rewards.preprocess import CLIP_MEAN, CLIP_STD, check_pictures, clip_pixels


def noise(height: int, width: int) -> torch.Tensor:
    """A hard picture, every pixel its own colour, on the 8-bit grid so that Pillow is given the same values."""
    return torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(height * width)) / 255


def smooth(height: int, width: int) -> torch.Tensor:
    y, x = torch.linspace(0, 3, height)[:, None], torch.linspace(0, 5, width)
    return ((torch.stack([x.sin() * y.cos(), (x + y).cos(), (x - y).sin()])[None] * 0.5 + 0.5) * 255).round() / 255


def levels(pixels: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation and give grey levels 0 to 255."""
    return (pixels * torch.tensor(CLIP_STD).view(3, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1)) * 255


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (300, 420), (421, 300), (224, 224), (90, 200)])
@pytest.mark.parametrize("picture", [noise, smooth])
def test_equals_clips_image_processor(picture, size):
    """Pillow rounds to whole grey levels after rows and again after columns: at most half a level each. The second pass may enlarge the
    first error by the sum of its absolute weights, under 1.3 for bicubic, so 1.2 levels bound the largest difference."""
    image = picture(*size)
    array = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    theirs = torch.as_tensor(np.asarray(CLIPImageProcessorPil()(images=Image.fromarray(array), return_tensors="np")["pixel_values"]))
    difference = (levels(clip_pixels(image, 224)) - levels(theirs)).abs()
    assert difference.max() <= 1.2
    assert difference.mean() <= 0.4


def test_a_picture_of_the_right_size_is_only_normalised():
    image = noise(48, 48)
    expected = (image - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    assert torch.equal(clip_pixels(image, 48), expected)


def test_padding_keeps_the_whole_picture_between_black_bars():
    grey = levels(clip_pixels(torch.ones(1, 3, 40, 80), 32, fit="pad"))
    assert torch.allclose(grey[..., 8:24, :], torch.tensor(255.0), atol=1e-3)
    assert torch.allclose(grey[..., :8, :], torch.tensor(0.0), atol=1e-3)
    assert torch.allclose(grey[..., 24:, :], torch.tensor(0.0), atol=1e-3)
    assert torch.equal(clip_pixels(noise(64, 64), 32, fit="pad"), clip_pixels(noise(64, 64), 32))


def test_a_white_picture_has_gradient_everywhere():
    image = torch.ones(1, 3, 100, 100, requires_grad=True)
    clip_pixels(image, 32).sum().backward()
    assert image.grad is not None
    assert (image.grad > 0).all()


def test_the_gradient_is_the_derivative():
    image = (noise(9, 11).double() * 0.4 + 0.3).float().requires_grad_()
    weight = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    (clip_pixels(image, 6) * weight).sum().backward()
    assert image.grad is not None
    step = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)) * 1e-2
    with torch.no_grad():
        change = ((clip_pixels(image + step, 6) - clip_pixels(image - step, 6)) * weight).sum() / 2
    assert torch.allclose(change, (image.grad * step).sum(), rtol=1e-3)


def test_half_precision_pictures_are_taken():
    assert torch.allclose(clip_pixels(noise(64, 64).bfloat16(), 32), clip_pixels(noise(64, 64), 32), atol=0.05)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.zeros(3, 8, 8), "[3, 8, 8]"),
        (torch.zeros(1, 4, 8, 8), "[1, 4, 8, 8]"),
        (torch.zeros(0, 3, 8, 8), "[0, 3, 8, 8]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 8, 8), -1.0), "-1 to -1"),
        (torch.full((1, 3, 8, 8), 255.0), "255"),
        (torch.full((1, 3, 8, 8), float("nan")), "nan"),
    ],
)
def test_what_is_no_picture_is_refused(image, said):
    with pytest.raises(RewardError) as caught:
        check_pictures(image)
    assert said in str(caught.value)
