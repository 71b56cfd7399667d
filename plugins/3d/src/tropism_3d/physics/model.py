"""A simulator's model of a body on a plane: convex contact geometry, and the mass of the real solid."""

from __future__ import annotations

import importlib
import math
from types import ModuleType

import mujoco
import numpy as np
from scipy.spatial import ConvexHull

from tropism.errors import RewardError
from tropism_3d.physics.settings import Settings
from tropism_3d.physics.solid import Solid
from tropism_3d.physics.surface import Surface

DENSITY = 1000.0  # kg / m^3
GRAVITY = 9.81
LARGE = 100_000  # points, beyond which their hull alone takes seconds
CORNERS = 2048


def build(solid: Solid, settings: Settings) -> mujoco.MjModel:
    """One free body whose frame is at its centre of mass, resting on z = 0.

    A plane can touch nothing but vertices of the convex hull, so the hull is exact for contact. The simulator would take the hull's mass
    for the body's, or with its default rule count overlaps several times; so mass, centre and inertia are given. Raises what the simulator
    raises for geometry that it refuses: ValueError, mujoco.FatalError, scipy's QhullError.
    """
    spec = mujoco.MjSpec()
    spec.option.timestep = settings.step
    euler = settings.integrator == "euler"
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER if euler else mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET  # a run that diverges must be seen
    spec.compiler.balanceinertia = True
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    legacy = settings.inertia == "legacy"
    body = spec.worldbody.add_body(name="object", pos=solid.centre)
    body.add_freejoint()
    if not legacy:
        # Left to itself, the inertial frame is placed anywhere: it must be said to be the body's.
        body.explicitinertial, body.mass, body.ipos = True, DENSITY * solid.volume, [0.0, 0.0, 0.0]
        moments, axes = np.linalg.eigh(DENSITY * solid.inertia)
        body.inertia, body.iquat = moments, _quaternion(axes)
    rule = mujoco.mjtMeshInertia.mjMESH_INERTIA_LEGACY if legacy else mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
    for number, piece in enumerate(_contact(solid.surface, settings)):
        asset = spec.add_mesh(name=f"piece{number}", inertia=rule)
        asset.uservert = (piece.vertices - solid.centre).astype(np.float32).reshape(-1)
        asset.userface = piece.faces.astype(np.int32).reshape(-1)
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"piece{number}", density=DENSITY)
    model = spec.compile()
    vary(model, settings)
    return model


def vary(model: mujoco.MjModel, settings: Settings) -> None:
    """Give a model the friction and the slope of ``settings``: the floor stays z = 0, and down is tilted toward +x."""
    lean = math.radians(settings.slope)
    model.geom_friction[:, 0] = settings.friction
    model.opt.gravity[:] = [GRAVITY * math.sin(lean), 0.0, -GRAVITY * math.cos(lean)]


def _contact(surface: Surface, settings: Settings) -> list[Surface]:
    """The pieces whose hulls touch the floor. With legacy inertia the whole mesh, from which the simulator takes both."""
    if settings.contact == "coacd":
        return decomposition(surface)
    return [surface if settings.inertia == "legacy" else hull(surface.vertices)]


def _quaternion(axes: np.ndarray) -> np.ndarray:
    """The rotation [w, x, y, z] to the frame whose axes are the columns [3, 3], one of them turned round if they are left-handed."""
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, (axes * [1, 1, np.sign(np.linalg.det(axes))]).reshape(-1))
    return quaternion


def hull(points: np.ndarray) -> Surface:
    """The convex hull of points [V, 3], faces outward. Raises QhullError where they lie in a plane.

    Of huge sets, and of smooth ones with more corners than contact needs, the hull of their farthest points in evenly spread directions:
    corners stay, and round sides are cut by less than a thousandth of the longest side.
    """
    if len(points) > LARGE:
        points = _farthest(points)
    found = ConvexHull(points)
    if len(found.vertices) > CORNERS:
        points = _farthest(points[found.vertices])
        found = ConvexHull(points)
    a, b, c = (points[found.simplices[:, k]] for k in range(3))
    inward = np.einsum("ij,ij->i", np.cross(b - a, c - a), found.equations[:, :3]) < 0
    faces = np.where(inward[:, None], found.simplices[:, ::-1], found.simplices).astype(np.int64)
    return Surface(points, faces).part(np.ones(len(faces), dtype=bool))


def _farthest(points: np.ndarray) -> np.ndarray:
    """The farthest points in CORNERS directions, which lie on a Fibonacci spiral over the sphere."""
    number = np.arange(CORNERS) + 0.5
    z, angle = 1 - 2 * number / CORNERS, np.pi * (1 + 5**0.5) * number
    flat = np.sqrt(1 - z**2)
    directions = np.stack([flat * np.cos(angle), flat * np.sin(angle), z], 1)
    rows = np.ascontiguousarray(points.T)
    kept: np.ndarray = points[np.unique([(some @ rows).argmax(1) for some in np.split(directions, CORNERS // 32)])]
    return kept


def decomposition(surface: Surface) -> list[Surface]:
    """Convex pieces by CoACD (Wei et al. 2022, arXiv:2205.02961): seconds to minutes a shape. Raises RewardError where it is missing."""
    coacd = installed_coacd()
    coacd.set_log_level("error")
    found = coacd.run_coacd(coacd.Mesh(surface.vertices, surface.faces), max_convex_hull=16, preprocess_resolution=30, seed=0)
    return [Surface(np.asarray(vertices), np.asarray(faces, dtype=np.int64)) for vertices, faces in found]


def installed_coacd() -> ModuleType:
    """CoACD, which is optional. Raises RewardError that says how to install it."""
    try:
        return importlib.import_module("coacd")
    except ImportError as error:
        raise RewardError("contact: coacd needs CoACD; install it with: pip install 'tropism-3d[coacd]'") from error
