"""Shaded pictures of meshes without a graphics card: points on the surface, sorted by depth, painted back to front.

About 50 ms a picture. Orthographic, z up, seen like :mod:`tropism_3d.depth` sees it, with a shadow straight below so that one sees what
stands and what floats.
"""

from __future__ import annotations

import math

import numpy as np
import trimesh

from tropism_3d.depth import AZIMUTH, ELEVATION

POINTS = 40_000
OVER = 2  # pixels painted per pixel shown, in both directions
COLOUR, PAPER, SHADE = np.array([120, 160, 205.0]), np.array([250, 250, 248.0]), np.array([216, 217, 216.0])
LIGHT = np.array([-0.45, -0.35, 0.82]) / np.linalg.norm([-0.45, -0.35, 0.82])  # in the camera's frame, so it turns with it


def picture(mesh: trimesh.Trimesh | None, size: int = 160, turn: float = 0.0, reach: float = 0.78) -> np.ndarray:
    """Pixels [size, size, 3] uint8 of a mesh of any size and place (blank for None). turn: of the object about z, radians.

    reach: half the picture's width, in units of the longest side of the mesh's bounding box; the box stands in the middle.
    """
    wide = size * OVER
    image = np.broadcast_to(PAPER, (wide, wide, 3)).copy()
    if mesh is not None and len(mesh.faces) and np.isfinite(mesh.vertices).all():
        _paint(image, mesh, turn, reach)
    small: np.ndarray = image.reshape(size, OVER, size, OVER, 3).mean((1, 3)).round().astype(np.uint8)
    return small


def turntable(mesh: trimesh.Trimesh | None, frames: int = 8, size: int = 160) -> np.ndarray:
    """Pictures all around in a strip [size, frames * size, 3] uint8."""
    return np.concatenate([picture(mesh, size, 2 * math.pi * frame / frames) for frame in range(frames)], 1)


def _paint(image: np.ndarray, mesh: trimesh.Trimesh, turn: float, reach: float) -> None:
    low, high = mesh.bounds
    side = max((high - low).max(), 1e-12)
    points, faces = trimesh.sample.sample_surface(mesh, POINTS, seed=0)
    points = (points - [*(low + high)[:2] / 2, low[2]]) / side
    c, s = math.cos(turn), math.sin(turn)
    about = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    right, up, toward = _camera()
    points, normals = points @ about.T, mesh.face_normals[faces] @ about.T
    middle = np.array([0, 0, 0.5 * (high - low)[2] / side])
    _splat(image, (points * [1, 1, 0] - middle) @ np.stack([right, up], 1), SHADE, reach)
    order = np.argsort(points @ toward, kind="stable")
    points, normals = points[order], normals[order]
    light = normals @ (LIGHT[0] * right + LIGHT[1] * -toward + LIGHT[2] * up)
    tone = 0.42 + 0.5 * np.clip(light, 0, 1) + 0.12 * np.clip(normals @ toward, 0, 1)
    _splat(image, (points - middle) @ np.stack([right, up], 1), np.clip(tone[:, None] * COLOUR * 1.25, 0, 255), reach)


def _camera() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    toward = np.array([-math.sin(AZIMUTH) * math.cos(ELEVATION), -math.cos(AZIMUTH) * math.cos(ELEVATION), math.sin(ELEVATION)])
    right = np.array([math.cos(AZIMUTH), -math.sin(AZIMUTH), 0.0])
    return right, np.cross(toward, right), toward


def _splat(image: np.ndarray, flat: np.ndarray, colour: np.ndarray, reach: float) -> None:
    """Paint points [P, 2] in units of ``reach``, later ones over earlier ones, each 5 by 5 pixels."""
    wide = len(image)
    column = ((flat[:, 0] / reach + 1) / 2 * wide).astype(int)
    row = ((1 - flat[:, 1] / reach) / 2 * wide).astype(int)
    shown = (column > 1) & (column < wide - 2) & (row > 1) & (row < wide - 2)
    place, colour = (row * wide + column)[shown, None], np.broadcast_to(colour, (len(flat), 3))[shown]
    brush = (np.arange(-2, 3)[:, None] * wide + np.arange(-2, 3)).ravel()
    image.reshape(-1, 3)[(place + brush).ravel()] = np.repeat(colour, len(brush), 0)
