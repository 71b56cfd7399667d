"""Fields, depth pictures and the codec, against what they should be by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from tropism_3d.depth import REACH, SIZE, STEPS, depth
from tropism_3d.fields import BAND, RADIUS, SOLID, THICKER, N, occupancy, resampled, seen_from, signed
from tropism_3d.generators.codec import Codec


def ball(radius: float, size: int = 64, middle: tuple[float, float, float] = (0.5, 0.5, 0.5)) -> torch.Tensor:
    """Positive inside, [1, size, size, size]."""
    line = (torch.arange(size) + 0.5) / size
    x, y, z = torch.meshgrid(line - middle[0], line - middle[1], line - middle[2], indexing="ij")
    return (radius - (x**2 + y**2 + z**2).sqrt())[None]


def test_distances_are_scipys_near_the_surface():
    solid = ndimage.binary_dilation(np.random.default_rng(0).random((SOLID,) * 3) > 0.9995, iterations=2)
    raw = ndimage.distance_transform_edt(solid) - ndimage.distance_transform_edt(~solid)
    found = (signed(torch.from_numpy(solid)[None])[0] * BAND - THICKER) * SOLID
    near = np.abs(raw) < RADIUS
    np.testing.assert_allclose(found.numpy()[near], (raw - 0.5 * np.sign(raw))[near], atol=1e-4)
    assert (np.sign(found.numpy()) == np.sign(raw)).all()


def test_resampling_to_the_same_grid_changes_nothing():
    distance = torch.randn(2, SOLID, SOLID, SOLID)
    torch.testing.assert_close(resampled(distance, torch.ones(2, 3), SOLID), distance.clamp(-1, 1), atol=1e-5, rtol=0)


def test_a_stretch_makes_a_shape_shorter_on_its_floor():
    solid = torch.zeros(1, SOLID, SOLID, SOLID, dtype=torch.bool)
    solid[:, 10:38, 10:38, 2:42] = True
    tall, short = (resampled(signed(solid), torch.tensor([[1.0, 1.0, z]]))[0] > 0 for z in (1.0, 0.5))
    heights = [shape.flatten(0, 1).any(0).sum().item() for shape in (tall, short)]
    assert abs(heights[0] - 40 / SOLID * N) <= 1 and abs(heights[1] - heights[0] / 2) <= 1
    assert all(shape[:, :, :1].sum() == 0 and shape[:, :, 1:3].any() for shape in (tall, short))


def test_views_are_quarter_turns_and_mirror_images():
    field = torch.randn(1, 4, 4, 4)
    assert torch.equal(seen_from(field, 0), field)
    turned = field
    for view in range(4):
        assert torch.equal(seen_from(field, view), turned)
        turned = turned.rot90(1, (1, 2))
    assert torch.equal(turned, field) and torch.equal(seen_from(field, 4), field.flip(1))
    assert len({tuple(seen_from(field, view).flatten().tolist()) for view in range(8)}) == 8


def test_the_surface_of_a_field_is_at_occupancy_one_half():
    assert occupancy(torch.tensor([-1.0, 0.0, 1.0]))[1] == 0.5


def test_a_ball_looks_as_large_and_as_near_as_it_is():
    radius = 0.3
    near, shown = depth(ball(radius))[0]
    assert shown.mean().item() == pytest.approx(math.pi * radius**2 / (2 * REACH) ** 2, rel=0.05)
    middle = near[SIZE // 2 - 1 : SIZE // 2 + 1, SIZE // 2 - 1 : SIZE // 2 + 1].mean().item()
    assert middle == pytest.approx(1 - (REACH - radius) / (2 * REACH), abs=2 / STEPS)
    assert (near[shown == 0] == 0).all() and near.max() <= 1


def test_what_is_in_front_hides_and_is_nearer():
    front, back = ball(0.1, middle=(0.5, 0.1, 0.5)), ball(0.1, middle=(0.5, 0.9, 0.5))
    both = depth(torch.maximum(front, back))[0, 0]
    front_near, back_near = depth(front)[0, 0], depth(back)[0, 0]
    assert front_near.amax() > back_near.amax() + 0.3
    assert torch.equal(both, torch.maximum(front_near, back_near))
    assert depth(-torch.ones(1, 8, 8, 8)).eq(0).all()


def test_a_codec_gives_back_what_its_components_span():
    codec = Codec(inner=6, outer=5)
    generator = torch.Generator().manual_seed(0)
    for name in ("block", "whole"):
        basis = codec.get_buffer(name)
        basis.copy_(torch.linalg.qr(torch.randn(basis.shape, generator=generator)).Q)
    for name in ("block_mean", "whole_mean"):
        codec.get_buffer(name).normal_(generator=generator)
    codec.scale.copy_(torch.tensor([2.0, 1.0, 0.5, 0.2, 0.1]))
    x0 = torch.randn(3, 5, generator=generator)
    field = codec.decode(x0)
    assert field.shape == (3, N, N, N)
    torch.testing.assert_close(codec.encode(field), x0, atol=1e-4, rtol=1e-4)
    corner = codec.decode(torch.zeros(1, 5))[0, 8:16, :8, 24:]  # block (1, 0, 3) of 4 x 4 x 4
    block = codec.whole_mean.reshape(64, 6)[1 * 16 + 0 * 4 + 3] @ codec.block.T + codec.block_mean
    torch.testing.assert_close(corner.flatten(), block, atol=1e-5, rtol=1e-5)
