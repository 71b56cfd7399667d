"""The shares that stand, on three bodies whose fate is known."""

from __future__ import annotations

import torch

from tests.three_d.test_geometry import rollout
from tropism_3d.evaluators.stable import Stable


def test_shares_count_what_stands_falls_and_is_not_there():
    media = torch.zeros(3, 16, 16, 16)
    media[0, 4:12, 4:12, :6] = 1  # a box
    media[1, 7:9, 7:9, :8] = 1  # a pole with a heavy arm to one side
    media[1, 7:16, 6:10, 8:14] = 1
    samples = rollout([{"prompt": str(row)} for row in range(3)], {"occupancy": media})
    found = dict(Stable(threads=1)(samples, samples))
    assert found["3d/stable-5"].tolist() == found["3d/stable-20"].tolist() == [1, 0, 0]
    assert found["3d/tilt"][0] < 1 and found["3d/tilt"][1] > 20 and found["3d/tilt"][2] == 180
