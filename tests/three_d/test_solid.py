"""Mass, centre and inertia of what a surface encloses, against formulas, and as the simulator takes them."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import trimesh

from tests.three_d.bodies import LEGS, crumbed, shape, table, turned, union
from tropism_3d.physics import surface, voxels
from tropism_3d.physics.model import build, hull
from tropism_3d.physics.settings import PRESETS
from tropism_3d.physics.simulate import outcome
from tropism_3d.physics.solid import SIDE, solid
from tropism_3d.physics.surface import Surface
from tropism_3d.shapes import Shape

ROBUST = PRESETS["robust"]


def boxes_together(boxes: list[tuple[list[float], list[float]]]) -> tuple[float, np.ndarray, np.ndarray]:
    """Volume, centre and inertia about it of disjoint boxes: the formulas of a box and the parallel axis theorem."""
    low, high = np.array(boxes, dtype=float).transpose(1, 0, 2)
    size, at = high - low, (low + high) / 2
    mass = size.prod(1)
    centre = (mass[:, None] * at).sum(0) / mass.sum()
    second = np.zeros((3, 3))
    for m, s, r in zip(mass, size, at - centre):
        second += m * (np.diag(s**2) / 12 + np.outer(r, r))
    return float(mass.sum()), centre, np.eye(3) * np.trace(second) - second


TABLE = [([0, 0, 0.7], [1, 1, 0.8]), *(([x, y, 0], [x + 0.1, y + 0.1, 0.7]) for x, y in LEGS)]


def test_mass_properties_of_a_table_of_four_legs():
    volume, centre, inertia = boxes_together(TABLE)
    made = solid(Shape(table(), "ok"))
    assert made.method == "exact" and made.objects == 1
    assert made.volume == pytest.approx(volume, rel=1e-9) == pytest.approx(0.128)
    assert made.centre == pytest.approx(centre - [0.5, 0.5, 0], abs=1e-9)
    assert np.allclose(made.inertia, inertia, atol=1e-9)


def test_an_asymmetric_body_has_its_products_of_inertia_also_when_turned():
    boxes = [([0, 0, 0], [0.2, 0.2, 0.8]), ([0, 0, 0.8], [1, 0.2, 1]), ([0, 0.2, 0.8], [0.2, 0.6, 1])]
    volume, centre, inertia = boxes_together(boxes)
    rotation = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3])
    mesh = union(boxes)
    mesh.apply_transform(rotation)
    found = surface.mass_properties(Surface(mesh.vertices, mesh.faces))
    turn = rotation[:3, :3]
    assert found[0] == pytest.approx(volume)
    assert found[1] == pytest.approx(turn @ centre) and np.allclose(found[2], turn @ inertia @ turn.T, atol=1e-12)


def test_the_simulator_takes_mass_centre_and_inertia_as_given():
    """Left alone it moves the inertial frame or loses its axes without a word."""
    body = solid(shape("L with an overhang"))
    model = build(body, ROBUST)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    axes = data.ximat[1].reshape(3, 3)
    assert model.body_mass[1] == pytest.approx(1000 * body.volume)
    assert np.allclose(data.xipos[1], body.centre, atol=1e-9)
    assert np.allclose(axes @ np.diag(model.body_inertia[1]) @ axes.T, 1000 * body.inertia, rtol=1e-6, atol=1e-6)
    assert data.geom_xpos[1] is not None and model.ngeom == 2


def test_the_simulators_own_rules_get_a_table_wrong():
    """Why inertia is given: overlapping parts are counted twice and more, and the hull of a table is a box."""
    boxes = [([0, 0, 0.7], [1, 1, 0.8]), *(([x, y, 0], [x + 0.1, y + 0.1, 0.8]) for x, y in LEGS)]
    parts = trimesh.util.concatenate([trimesh.creation.box(bounds=b) for b in boxes])
    body = solid(Shape(parts, "ok", gap=1 / 64))
    legacy = build(body, replace(ROBUST, inertia="legacy"))
    own = build(body, ROBUST)
    exact = 1000 * boxes_together(TABLE)[0]
    assert own.body_mass[1] == pytest.approx(exact, rel=0.1)
    assert legacy.body_mass[1] > 1.1 * exact
    convex = surface.mass_properties(hull(body.surface.vertices))
    assert convex[1][2] == pytest.approx(0.4) and body.centre[2] == pytest.approx(0.662, abs=0.02)


@pytest.mark.parametrize("drop", [1, 12])
def test_an_open_surface_is_measured_by_voxels(drop):
    """A table with faces missing: within a few percent of the real thing, and it is said."""
    mesh = table()
    mesh.update_faces(np.arange(len(mesh.faces)) >= drop)
    body = solid(Shape(mesh, "ok"))
    whole = solid(shape("table"))
    assert body.method == "voxels" and whole.method == "exact"
    assert body.volume == pytest.approx(whole.volume, rel=0.1)
    assert np.abs(body.centre - whole.centre).max() < 0.02
    assert np.allclose(body.inertia / body.volume, whole.inertia / whole.volume, atol=0.015)
    assert outcome(Shape(mesh, "ok"), ROBUST).method == "voxels"


def test_voxels_of_a_ball():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    volume, centre, inertia = voxels.mass_properties(Surface(ball.vertices, ball.faces), SIDE)
    assert volume == pytest.approx(np.pi / 6, rel=0.02) and np.abs(centre).max() < 2e-3
    assert np.allclose(inertia / volume, np.eye(3) * 0.4 * 0.25, atol=3e-3)


def test_inside_out_is_turned_back_and_a_doubled_table_keeps_its_centre():
    inverted = table()
    inverted.invert()
    assert solid(Shape(inverted, "ok")).volume == pytest.approx(0.128)
    doubled = trimesh.util.concatenate([table(), table()])
    doubled.merge_vertices()
    assert solid(Shape(doubled, "ok")).centre == pytest.approx(solid(shape("table")).centre, abs=1e-6)


def test_the_largest_object_is_scaled_to_unit_size_and_the_others_are_counted():
    body = solid(Shape(crumbed(), "ok"))
    assert body.objects == 2 and body.volume == pytest.approx(0.128)
    assert np.allclose(body.surface.vertices.min(0), [-0.5, -0.5, 0]) and np.ptp(body.surface.vertices, 0).max() == pytest.approx(1)
    both = solid(Shape(crumbed(), "ok"), every=True)
    assert both.objects == 2 and len(both.surface.faces) == len(crumbed().faces)


@pytest.mark.parametrize("flip", [False, True])
def test_a_cavity_belongs_to_its_body_and_a_thing_in_it_does_not(flip):
    outer = trimesh.creation.box(bounds=[[0, 0, 0], [1, 1, 1]])
    hole = trimesh.creation.box(bounds=[[0.1, 0.1, 0.5], [0.9, 0.9, 0.9]])
    hole.invert()
    pea = trimesh.creation.icosphere(subdivisions=1, radius=0.1)
    pea.apply_translation([0.5, 0.5, 0.7])
    mesh = trimesh.util.concatenate([hole, outer, pea])
    if flip:
        mesh.invert()
    body = solid(Shape(mesh, "ok"))
    full, gone = 1.0, 0.8 * 0.8 * 0.4
    assert body.method == "exact" and body.objects == 2
    assert body.volume == pytest.approx(full - gone)
    assert body.centre[2] == pytest.approx((full * 0.5 - gone * 0.7) / (full - gone))


def test_parts_that_touch_are_one_object_where_the_shape_says_so():
    boxes = [([0, 0, 0.7], [1, 1, 0.8]), *(([x, y, 0], [x + 0.1, y + 0.1, 0.7]) for x, y in LEGS), ([3, 0, 0], [3.1, 0.1, 0.1])]
    parts = trimesh.util.concatenate([trimesh.creation.box(bounds=b) for b in boxes])
    joined, apart = solid(Shape(parts, "ok", gap=1 / 64)), solid(Shape(parts, "ok"))
    assert (joined.objects, apart.objects) == (2, 6)
    assert joined.method == "voxels" and joined.centre[2] == pytest.approx(0.662, abs=0.02)
    assert apart.volume == pytest.approx(0.1)  # the top alone
    assert outcome(Shape(parts, "ok", gap=1 / 64), ROBUST).tilt < 0.1


@pytest.mark.parametrize(
    ("mesh", "status"),
    [
        (trimesh.Trimesh(), "empty"),
        (trimesh.Trimesh([[0, 0, 0]] * 3, [[0, 1, 2]], process=False), "flat"),
        (trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], process=False), "flat"),
        (turned(trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1e-6]], [[0, 1, 2], [0, 2, 3]]), 0.6), "flat"),
        (trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, np.nan]], [[0, 1, 2], [0, 1, 3]], process=False), "non-finite"),
        (trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, np.inf]], [[0, 1, 2], [0, 1, 3]], process=False), "non-finite"),
    ],
)
def test_what_is_no_body_is_named_and_fails(mesh, status):
    found = outcome(Shape(mesh, "ok"), ROBUST)
    assert found.status == status and found.failed and not found.stands(180)


def test_vertices_that_no_face_uses_do_not_count():
    mesh = trimesh.Trimesh(np.concatenate([table().vertices, [[0, 0, -50], [np.nan] * 3]]), table().faces, process=False)
    assert outcome(Shape(mesh, "ok"), ROBUST).tilt < 0.1


def test_two_triangles_that_share_an_edge_are_a_body_of_a_kind():
    """Not flat, not closed, three points on the floor: simulated by its shell, or refused by the simulator; never an exception."""
    bent = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 1, 2], [0, 1, 3]], process=False)
    assert outcome(Shape(bent, "ok"), ROBUST).method == "voxels"
