"""The energy barrier: boxes by formula, what it ignores, what the simulator says, and where its gradient leads."""

from __future__ import annotations

import math

import pytest
import torch

from tropism_3d.rewards.barrier import SHARP, Barrier, around_largest, heights
from tropism_3d.rewards.stability import Stands

N = 32
FAR = Barrier(enough=10.0)


def box(wide: int, high: int, begin: int = 2) -> torch.Tensor:
    """A solid [N, N, N], ``wide`` x ``wide`` x ``high`` voxels, in the middle."""
    solid = torch.zeros(N, N, N)
    low = (N - wide) // 2
    solid[low : low + wide, low : low + wide, begin : begin + high] = 1
    return solid


@pytest.mark.parametrize(("wide", "high"), [(4, 28), (8, 28), (12, 20), (28, 8)])
def test_a_box_is_lifted_by_what_its_corner_asks(wide, high):
    # From lying on its face to standing on an edge at 20 degrees: half a width to the edge's side, half a height over it.
    tilt, half, centre = math.radians(20), (wide - 1) / 2 / N, (high - 1) / 2 / N
    rise = math.sin(tilt) * half + (math.cos(tilt) - 1) * centre
    # Many columns of the floor count together as a little more than one, which makes the barrier lower by a third of a voxel.
    assert rise - 0.012 < FAR(box(wide, high)[None]).item() <= rise + 1e-3


def test_upright_the_centre_is_half_a_height_over_the_floor():
    solid = box(10, 9)[None]
    many = SHARP * math.log(100)  # columns that touch
    assert heights(solid, torch.tensor([[0.0, 0.0, 1.0]])).item() == pytest.approx(4 / N + many, abs=1e-4)


def test_crumbs_far_from_the_object_are_no_feet_and_its_turns_are_alike():
    solid = box(6, 26)
    crumbs = solid.clone()
    crumbs[0, 0, 2] = crumbs[-1, -1, 2] = 1
    values = FAR(torch.stack([solid, crumbs, solid.transpose(0, 1), solid.flip(0)]))
    torch.testing.assert_close(values, values[:1].expand(4), atol=1e-5, rtol=0)
    assert around_largest(crumbs[None])[0, 0, 0, 2] == 0


def test_no_object_is_below_all_and_enough_is_enough():
    values = Barrier(enough=0.02)(torch.stack([torch.zeros(N, N, N), box(28, 8), box(2, 29)]))
    assert values[0] == -1 and values[1] == pytest.approx(0.02) and -0.1 < values[2] < 0


def test_what_has_a_barrier_stands_in_the_simulator():
    solids = torch.stack([box(wide, high) for wide in (2, 4, 8, 12, 20) for high in (8, 16, 28)])
    stands = Stands()(solids) == 1
    assert stands[FAR(solids) > 0].all() and (FAR(solids) > 0).sum() >= 8


def test_its_gradient_leads_from_a_top_that_tips_to_one_that_stands():
    start = torch.zeros(1, N, N, N)
    start[:, 14:17, 14:17, 2:20] = 1  # a leg
    start[:, 14:30, 10:22, 20:24] = 1  # a top on one side of it
    field = torch.logit(start, eps=0.02).requires_grad_()
    reward = Barrier(enough=0.02)
    before = reward(field.sigmoid()).item()
    optimizer = torch.optim.Adam([field], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        (-reward(field.sigmoid()).sum()).backward()
        optimizer.step()
    after = field.detach().sigmoid()
    assert before < 0 < reward(after).item() and Stands()(start).item() == 0 and Stands()(after).item() == 1


def test_half_precision_and_arguments():
    solid = box(8, 20)[None]
    assert FAR(solid.bfloat16()).item() == pytest.approx(FAR(solid).item(), abs=1e-3)
    with pytest.raises(ValueError, match="tilt 90 is outside 0 to 90"):
        Barrier(tilt=90)
    with pytest.raises(ValueError, match="enough 0; expected above 0"):
        Barrier(enough=0)
