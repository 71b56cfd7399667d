"""The static proxy of stability: how far over its footprint the centre of mass is. Microseconds, and no simulation."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from tropism_3d.physics.solid import Solid

LAYER = 0.01  # of the longest side: what is this near to the lowest point is taken to touch the floor


def margin_angle(body: Solid) -> float:
    """Degrees, -90 to 90, by which a body can be tilted before its centre of mass leaves its support polygon; below 0 it is outside.

    The polygon is the hull of the lowest layer's vertices. Where the bottom is not flat it is smaller than the true one, so the angle is
    pessimistic; it knows no kick and no second resting place.
    """
    vertices = body.surface.vertices
    foot = vertices[vertices[:, 2] <= vertices[:, 2].min() + LAYER, :2]
    return math.degrees(math.atan2(inset(foot, body.centre[:2]), body.centre[2] - vertices[:, 2].min()))


def inset(points: np.ndarray, at: np.ndarray) -> float:
    """Distance of ``at`` [2] to the border of the convex hull of ``points`` [M, 2], negative outside it."""
    try:
        corners = points[ConvexHull(points).vertices]  # counter-clockwise
    except (QhullError, ValueError):  # a point or a line: nothing is inside
        middle = points - points.mean(0)
        along = middle @ np.linalg.eigh(middle.T @ middle)[1][:, -1]
        corners = points[[along.argmin(), along.argmax()]]
    edge = np.roll(corners, -1, 0) - corners
    to = at - corners
    share = np.clip((to * edge).sum(1) / np.maximum((edge**2).sum(1), 1e-30), 0, 1)
    distance = np.linalg.norm(to - share[:, None] * edge, axis=1).min()
    inside = len(corners) > 2 and (edge[:, 0] * to[:, 1] - edge[:, 1] * to[:, 0] >= 0).all()
    return float(distance if inside else -distance)
