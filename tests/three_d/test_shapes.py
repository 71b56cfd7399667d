"""Shapes from occupancy: closed, right side out, where they were, and named where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tropism.errors import TropismError
from tropism_3d.shapes import from_occupancy


def ball(size: int, radius: float) -> torch.Tensor:
    """A soft ball in the middle: 0.5 at ``radius``, [size, size, size]."""
    centres = (torch.arange(size) + 0.5) / size - 0.5
    distance = torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij")).norm(dim=0)
    return torch.sigmoid((radius - distance) * size)


def test_a_ball_is_closed_right_side_out_and_where_it_was():
    ((shape),) = from_occupancy(ball(32, 0.3)[None])
    assert shape.status == "ok" and shape.mesh.is_watertight
    assert shape.mesh.volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.01)
    assert np.allclose(shape.mesh.center_mass, 0.5, atol=1e-4)
    assert np.allclose(shape.mesh.bounds, [[0.2] * 3, [0.8] * 3], atol=2e-3)


def test_axes_are_x_y_z_and_a_full_grid_is_the_unit_cube():
    field = torch.zeros(16, 16, 16)
    field[:8, :4, :2] = 1
    (box,) = from_occupancy(field[None])
    assert np.allclose(box.mesh.bounds, [[0, 0, 0], [0.5, 0.25, 0.125]], atol=1e-6)
    (full,) = from_occupancy(torch.ones(1, 8, 8, 8))
    assert full.mesh.is_watertight and np.allclose(full.mesh.bounds, [[0] * 3, [1] * 3])


def test_fields_without_a_surface_are_named_and_their_neighbours_stand():
    fields = torch.stack([torch.zeros(8, 8, 8), torch.full((8, 8, 8), torch.nan), torch.full((8, 8, 8), 0.5), ball(8, 0.3)])
    assert [shape.status for shape in from_occupancy(fields)] == ["empty", "non-finite", "empty", "ok"]


@pytest.mark.parametrize("size", [(2, 8, 8), (1, 8, 8, 9), (1, 1, 1, 1), (1, 300, 300, 300)])
def test_what_is_no_occupancy_is_refused(size):
    with pytest.raises(TropismError, match=r"expected \[B, N, N, N\]"):
        from_occupancy(torch.zeros(1).expand(size))
