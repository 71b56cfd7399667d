"""The differentiable estimate of a JPEG's size against the true size."""

import pytest
import torch

from tropism.errors import RewardError
from tropism_image.rewards.jpeg import JpegSize
from tropism_image.rewards.jpeg_estimate import HEADER, JpegEstimate


def shapes(count, size, seed=0):
    """Discs of one colour on white with a little shading: as many kinds of picture as a line can make."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    radius, colour = torch.rand(count, 1, 1, 1, generator=g), torch.rand(count, 3, 1, 1, generator=g)
    disc = ((x**2 + y**2)[None, None] < radius).float()
    shade = torch.rand(count, 1, 1, 1, generator=g) * torch.sin(8 * x * radius + 5 * y)
    grain = 0.1 * torch.rand(count, 1, 1, 1, generator=g) * torch.randn(count, 3, size, size, generator=g)
    return (disc * (colour + 0.3 * shade + grain) + (1 - disc)).clamp(0, 1)


@pytest.mark.parametrize("quality", [75, 95])
def test_the_estimate_follows_the_true_size(quality):
    pictures = shapes(200, 64)
    true, guess = JpegSize(quality)(pictures), JpegEstimate(quality)(pictures)
    assert torch.corrcoef(torch.stack([true, guess]))[0, 1] > 0.98
    if quality == 95:
        assert ((guess - true).abs() / true).mean() < 0.08


def test_a_picture_of_one_colour_is_an_empty_file():
    torch.testing.assert_close(JpegEstimate()(torch.full((2, 3, 32, 32), 0.5)), torch.full((2,), HEADER))
    assert JpegSize()(torch.full((1, 3, 32, 32), 0.5)).item() == pytest.approx(HEADER, abs=0.03)


def test_sides_need_not_be_multiples_of_a_block():
    odd = torch.full((1, 3, 19, 33), 0.25)
    assert JpegEstimate()(odd).item() == pytest.approx(HEADER, abs=1e-6)
    pictures = shapes(64, 45)
    assert torch.corrcoef(torch.stack([JpegSize()(pictures), JpegEstimate()(pictures)]))[0, 1] > 0.98


def test_following_the_gradient_makes_the_true_file_smaller():
    pictures = (0.1 + 0.8 * shapes(8, 64)).requires_grad_()
    before, estimate = JpegSize()(pictures), JpegEstimate()
    descent = torch.optim.Adam([pictures], lr=0.005)
    for _ in range(20):
        descent.zero_grad()
        estimate(pictures).sum().backward()
        descent.step()
    assert torch.isfinite(pictures).all()
    assert JpegSize()(pictures.detach().clamp(0, 1)).mean() < 0.95 * before.mean()


def test_each_picture_counts_alone_and_bad_input_is_named():
    pictures = shapes(5, 32)
    together = JpegEstimate()(pictures)
    torch.testing.assert_close(torch.cat([JpegEstimate()(p[None]) for p in pictures]), together)
    with pytest.raises(RewardError, match="quality 96"):
        JpegEstimate(96)
    with pytest.raises(RewardError, match="expected pictures"):
        JpegEstimate()(torch.zeros(3, 8, 8))
