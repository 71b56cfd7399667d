"""The energy barrier: how far the centre of mass must be lifted to tip an object over. Differentiable, and no simulation.

A body that is put on a plane without much speed keeps its energy, so it cannot turn past a tilt at which its centre of mass is higher than
where it began. With the plane's normal n in the body's frame the centre c is above the plane by

    height(n) = n.c - min over the body's points p of n.p

and the barrier is min height(n) - height(up) over all n that are ``tilt`` from up: below 0 there is a way down past that tilt, and nothing
but friction and settling on other feet on the way hold it. Static stability energy is the field's name for it. Of 768 samples of the
shipped generator 67 % have a barrier above 0, and 99 % of these stand in the simulator (they tilt by less than DSO's 20 degrees); of the
others 38 %. The area under the ROC curve is 0.95, that of the support margin 0.70.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage

from tropism_3d.shapes import SURFACE, check

TURNS = 32  # directions to tip over to
SHARP = 0.003  # sides of the cube: how far above the lowest point others still count
FAINT = 1e-6  # a column with so little in it is no foot, but has a gradient toward becoming one
NEAR = 2  # voxels around the largest part that still learn; crumbs farther away are no feet, as in the simulation


class Barrier:
    """The barrier of each object in sides of the cube, at most ``enough``, [B]; -1 where there is no object. See the head of this file.

    occupancy: see :mod:`tropism_3d.shapes`. tilt: degrees. enough: beyond it an object is safe, and nothing is gained by a broader foot.
    """

    differentiable = True
    unit = "sides"

    def __init__(self, tilt: float = 20.0, enough: float = 0.03) -> None:
        if not 0 < tilt < 90:
            raise ValueError(f"tilt {tilt} is outside 0 to 90 degrees; 20 is what counts as fallen")
        if not enough > 0:
            raise ValueError(f"enough {enough}; expected above 0, in sides of the cube")
        self.tilt, self.enough = tilt, enough

    def __call__(self, occupancy: torch.Tensor) -> torch.Tensor:
        check(occupancy)
        body = occupancy.float() * around_largest(occupancy)
        rise = heights(body, self._tilted(body)) - heights(body, body.new_tensor([[0.0, 0.0, 1.0]]))
        there = (body > SURFACE).flatten(1).any(1)
        return torch.where(there, rise.amin(1).clamp(max=self.enough), -1.0)

    def _tilted(self, like: torch.Tensor) -> torch.Tensor:
        """Directions [TURNS, 3] that are ``tilt`` from up."""
        turn = torch.arange(TURNS, device=like.device) * (2 * math.pi / TURNS)
        tilt = turn.new_tensor(math.radians(self.tilt))
        return torch.stack([tilt.sin() * turn.cos(), tilt.sin() * turn.sin(), tilt.cos().expand(TURNS)], 1)


def heights(body: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """How high the centre of mass of each occupancy [B, N, N, N] is above a plane under it with each normal [M, 3]: [B, M].

    Of each column of voxels only its lowest one can touch, if the normal is near to up: what a ray from below hits, as in volume rendering,
    with the chance that it hits anything as the column's weight. The lowest of the columns is by log-sum-exp.
    """
    size = body.shape[-1]
    line = (torch.arange(size, device=body.device) + 0.5) / size
    mass = body.sum((1, 2, 3)).clamp(min=1e-6)
    centre = torch.stack([body.sum(axes) @ line / mass for axes in ((2, 3), (1, 3), (1, 2))], 1)
    passed = torch.cumprod(torch.cat([torch.ones_like(body[..., :1]), 1 - body[..., :-1]], -1), -1)
    weight = (passed * body).clamp(min=0)
    hit = weight.sum(-1)
    z = ((weight @ line + FAINT) / (hit + FAINT)).flatten(1)
    x, y = line.repeat_interleave(size), line.repeat(size)
    below = -(z[..., None] * normals[:, 2] + x[:, None] * normals[:, 0] + y[:, None] * normals[:, 1])  # [B, N N, M]
    return centre @ normals.T + SHARP * torch.logsumexp(below / SHARP + (hit + FAINT).log().flatten(1)[..., None], 1)


def around_largest(occupancy: torch.Tensor) -> torch.Tensor:
    """1 within NEAR voxels of the largest part of each solid [B, N, N, N], 0 elsewhere; no gradient."""
    masks = []
    for solid in (occupancy.detach() > SURFACE).cpu().numpy():
        parts, count = ndimage.label(solid)
        largest = parts == 1 + np.bincount(parts.ravel(), minlength=2)[1:].argmax() if count else solid
        masks.append(ndimage.binary_dilation(largest, iterations=NEAR) if count else largest)
    return torch.from_numpy(np.stack(masks)).to(occupancy.device)
