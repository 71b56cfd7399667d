"""Facts of a triangle surface: whether it is closed, its area, and exact integrals over what it encloses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOTHING = 1e-9  # of the cube of the longest side: less is no volume but the rounding of one


@dataclass(frozen=True)
class Surface:
    """vertices [V, 3] float64, all used; faces [F, 3] int64."""

    vertices: np.ndarray
    faces: np.ndarray

    def part(self, keep: np.ndarray) -> Surface:
        """The faces ``keep`` [F] bool, with the vertices that they use."""
        used, faces = np.unique(self.faces[keep], return_inverse=True)
        return Surface(self.vertices[used], faces.reshape(-1, 3))

    def flipped(self) -> Surface:
        return Surface(self.vertices, self.faces[:, ::-1])

    def corners(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three corners of every face, [F, 3] each."""
        return self.vertices[self.faces[:, 0]], self.vertices[self.faces[:, 1]], self.vertices[self.faces[:, 2]]

    def closed(self) -> bool:
        """Whether every edge is passed as often one way as the other: then the surface has no border and its faces agree."""
        begin, end = self.faces.reshape(-1), self.faces[:, [1, 2, 0]].reshape(-1)
        count = len(self.vertices)
        return bool(np.array_equal(np.sort(begin * count + end), np.sort(end * count + begin)))

    def areas(self) -> np.ndarray:
        """Of every face, [F]."""
        a, b, c = self.corners()
        areas: np.ndarray = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
        return areas

    def volumes(self) -> np.ndarray:
        """Signed volume of the tetrahedron of every face and the origin, [F]; of a closed surface they add up to what it encloses."""
        a, b, c = self.corners()
        signed: np.ndarray = np.einsum("ij,ij->i", a, np.cross(b, c)) / 6
        return signed


def mass_properties(surface: Surface) -> tuple[float, np.ndarray, np.ndarray]:
    """Volume, centre of mass [3] and inertia about it [3, 3], at density 1, of what a closed surface encloses.

    Exact sums over the tetrahedra of the faces and a point (Tonon 2004, "Explicit exact formulas for the 3-D tetrahedron inertia tensor").
    """
    middle = surface.vertices.mean(0)
    near = Surface(surface.vertices - middle, surface.faces)
    a, b, c = near.corners()
    parts = near.volumes()
    volume = parts.sum()
    total = a + b + c
    centre = (parts[:, None] * total).sum(0) / (4 * volume)
    weight = parts[:, None] / 20
    second = sum((weight * v).T @ v for v in (total, a, b, c)) - volume * np.outer(centre, centre)
    return float(volume), centre + middle, np.eye(3) * np.trace(second) - second
