"""Meshes in few bytes, for pages that hold hundreds: corners on a grid of 1024 a side, zlib, base64.

Layout before compression, little-endian: uint32 vertices, uint32 faces, uint16 [vertices, 3] positions, uint16 [faces, 3] corners. A mesh
with more than ``MOST`` faces is first simplified by joining the vertices that share a cell of a grid.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import trimesh

MOST = 4000
FINEST = 1023


def pack(mesh: trimesh.Trimesh) -> str:
    """A mesh of any size and place as text; its longest side becomes 0 to 1023, its bottom 0, its middle (512, 512)."""
    low, high = mesh.bounds
    unit = (mesh.vertices - [*(low + high)[:2] / 2, low[2]]) / max((high - low).max(), 1e-12)
    unit[:, :2] += 0.5
    faces = np.asarray(mesh.faces)
    cells = 256
    while len(faces) > MOST and cells > 8:
        unit, faces = _joined(unit, faces, cells)
        cells = cells * 3 // 4
    place = np.clip((unit * FINEST).round(), 0, FINEST).astype("<u2")
    data = struct.pack("<II", len(place), len(faces)) + place.tobytes() + faces.astype("<u2").tobytes()
    return base64.b64encode(zlib.compress(data, 9)).decode()


def unpack(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(positions [V, 3], corners [F, 3]) of a packed mesh."""
    data = zlib.decompress(base64.b64decode(text))
    vertices, faces = struct.unpack_from("<II", data)
    place = np.frombuffer(data, "<u2", 3 * vertices, 8).reshape(-1, 3)
    return place, np.frombuffer(data, "<u2", 3 * faces, 8 + 6 * vertices).reshape(-1, 3)


def _joined(unit: np.ndarray, faces: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The vertices of each cell become their mean; faces that shrink to a line go."""
    _, cell, count = np.unique((unit * cells).round().astype(int), axis=0, return_inverse=True, return_counts=True)
    cell = cell.ravel()
    mean = np.stack([np.bincount(cell, column) for column in unit.T], 1) / count[:, None]
    corners = cell[faces]
    whole = (corners != np.roll(corners, 1, 1)).all(1)
    return mean, corners[whole]
