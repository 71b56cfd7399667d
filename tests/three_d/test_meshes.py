"""Mesh files from anyone: read and repaired where that is safe, refused by name where not, and never an exception."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import trimesh

from tests.three_d.bodies import BODIES, LEGS, table, turned
from tropism_3d.meshes import glb
from tropism_3d.meshes.load import load
from tropism_3d.meshes.repair import repaired
from tropism_3d.physics import model
from tropism_3d.physics.model import CORNERS, hull
from tropism_3d.physics.settings import PRESETS
from tropism_3d.physics.simulate import outcome
from tropism_3d.physics.solid import solid
from tropism_3d.shapes import Shape
from tropism_3d.statuses import FAILED, MEANING

ROBUST = PRESETS["robust"]
UPWARD = trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0])  # z up -> y up


def exported(mesh: trimesh.Trimesh | trimesh.Scene, kind: str) -> bytes:
    data = mesh.export(file_type=kind)
    return data if isinstance(data, bytes) else data.encode()


def chiral() -> trimesh.Trimesh:
    """A table of two legs with a box on one corner: no mirror image of it is it."""
    return table([(0, 0), (0, 0.9)], extra=[([0.8, 0, 0.8], [1, 0.1, 0.9])])


def edited(data: bytes, edit) -> bytes:
    """A glb with its contents changed by ``edit``, in place."""
    size = struct.unpack_from("<I", data, 12)[0]
    contents = json.loads(data[20 : 20 + size])
    edit(contents)
    text = json.dumps(contents).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + size :]
    return struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON") + text + rest


@pytest.mark.parametrize(("kind", "up"), [("glb", "y"), ("obj", "y"), ("ply", "z"), ("stl", "z")])
def test_every_format_gives_the_same_body_the_right_way_up(kind, up, tmp_path):
    mesh = chiral()
    if up == "y":
        mesh.apply_transform(UPWARD)
    file = tmp_path / f"chiral.{kind}"
    file.write_bytes(exported(mesh, kind))
    found, wanted = solid(load(file)), solid(Shape(chiral(), "ok"))
    assert found.method == "exact" and found.volume == pytest.approx(wanted.volume, rel=1e-4)
    assert np.allclose(found.centre, wanted.centre, atol=1e-5) and np.allclose(found.inertia, wanted.inertia, atol=1e-5)
    assert load(file.read_bytes(), kind).status == "ok"
    other = "z" if up == "y" else "y"
    assert not np.allclose(solid(load(file, up=other)).centre, wanted.centre, atol=0.01)


def test_y_up_becomes_z_up_by_a_turn_and_not_by_a_swap():
    """Products of inertia change their sign in a mirror; the reference swaps two columns and mirrors every object."""
    upright = solid(load(exported(chiral().apply_transform(UPWARD), "glb"), "glb"))
    swapped = chiral()
    swapped.vertices[:, 0] *= -1
    mirrored = solid(Shape(swapped, "ok"))
    assert np.allclose(upright.inertia, solid(Shape(chiral(), "ok")).inertia, atol=1e-5)
    assert abs(upright.inertia[0, 1] - mirrored.inertia[0, 1]) > 5e-4


def test_transforms_of_a_scene_are_applied_also_those_that_mirror():
    """Four legs are one mesh at four places, one of them mirrored."""
    scene = trimesh.Scene()
    move = trimesh.transformations.translation_matrix
    leg = trimesh.creation.box(bounds=[[0, 0, 0], [0.1, 0.1, 0.7]])
    scene.add_geometry(trimesh.creation.box(bounds=[[0, 0, 0], [1, 1, 0.1]]), transform=UPWARD @ move([0, 0, 0.7]), geom_name="top")
    for x, y in LEGS[:3]:
        scene.add_geometry(leg, transform=UPWARD @ move([x, y, 0]), geom_name="leg")
    scene.add_geometry(leg, transform=UPWARD @ move([1, 0.9, 0]) @ np.diag([-1, 1, 1, 1]), geom_name="leg")
    shape = load(exported(scene, "glb"), "glb")
    assert len(shape.mesh.faces) == 60 and np.allclose(np.ptp(shape.mesh.vertices, 0), [1, 1, 0.8])
    assert shape.mesh.volume == pytest.approx(0.1 + 4 * 0.007), "faces of the mirrored leg look inward"
    found = outcome(shape, ROBUST)
    assert found.objects == 1 and found.tilt < 0.1, "its parts touch, so it is one object"


@pytest.mark.parametrize(
    ("change", "method"),
    [
        (lambda m: m.invert(), "exact"),
        (lambda m: m.apply_transform(np.diag([1, -1, 1, 1])), "exact"),
        (lambda m: setattr(m, "vertices", m.vertices * [-1, 1, 1]), "exact"),
        (lambda m: m.unmerge_vertices(), "exact"),
        (lambda m: setattr(m, "faces", np.concatenate([m.faces, m.faces[:9], m.faces[:9, [1, 2, 0]], [[0, 0, 5]]])), "exact"),
        (lambda m: setattr(m, "faces", np.concatenate([m.faces, m.faces[:, ::-1]])), "voxels"),  # two-sided: which side is out?
        (lambda m: m.update_faces(np.arange(len(m.faces)) > 3), "voxels"),
        (lambda m: setattr(m, "faces", np.where(np.arange(len(m.faces))[:, None] % 2, m.faces, m.faces[:, ::-1])), "voxels"),
        (lambda m: setattr(m, "faces", np.concatenate([m.faces, [[0, 5, len(m.vertices) - 1]]])), "voxels"),  # three faces at an edge
    ],
    ids=["inverted", "mirrored", "mirrored inward", "soup", "repeated", "two-sided", "holes", "mixed winding", "non-manifold"],
)
def test_what_can_be_repaired_stands_like_the_whole_table(change, method):
    mesh = table()
    change(mesh)
    shape = repaired(mesh.vertices, mesh.faces)
    found = outcome(shape, ROBUST)
    assert shape.status == "ok" and found.method == method and found.objects == 1
    assert found.stands(5)
    assert solid(shape).centre[2] == pytest.approx(0.6625, abs=0.02 if method == "voxels" else 1e-6)


@pytest.mark.parametrize(
    ("vertices", "faces", "status", "words"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), "empty", "no faces"),
        (np.zeros((3, 3)), [[0, 1, 2]], "empty", "no face has an extent"),
        (np.eye(3), [[0, 1, 1]], "empty", "no face has an extent"),
        (np.eye(3), [[0, 1, 3]], "unreadable", "names vertex 3 of 3"),
        (np.eye(3), [[0, 1, -1]], "unreadable", ""),
        ([[0, 0, 0], [1, 0, 0], [0, np.nan, 0]], [[0, 1, 2]], "non-finite", "1 of 3 vertices"),
        ([[0, 0, 0], [1, 0, 0], [0, np.inf, 0]], [[0, 1, 2]], "non-finite", "1 of 3 vertices"),
    ],
)
def test_what_cannot_be_repaired_is_named(vertices, faces, status, words):
    shape = repaired(np.array(vertices), np.array(faces))
    assert (shape.mesh, shape.status) == (None, status) and words in shape.detail
    assert outcome(shape, ROBUST).status == status and outcome(shape, ROBUST).failed


def test_huge_coordinates_and_unused_vertices_are_no_trouble():
    mesh = table()
    shape = repaired(np.concatenate([mesh.vertices * 1e300, [[np.nan] * 3]]), mesh.faces)
    assert shape.status == "ok" and outcome(shape, ROBUST).stands()


def test_flat_things_are_flat():
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    for angle in (0, 0.3, np.pi / 2):
        assert outcome(load(exported(turned(sheet, angle), "stl"), "stl"), ROBUST).status == "flat"


def test_vertices_of_a_draco_file_without_its_decoder_are_not_taken_for_zeros(monkeypatch):
    def compress(contents):
        contents["extensionsUsed"] = contents["extensionsRequired"] = ["KHR_draco_mesh_compression"]
        primitive = contents["meshes"][0]["primitives"][0]
        primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
        for accessor in contents["accessors"]:
            accessor.pop("bufferView", None)  # what glTF says of them: zeros, unless the extension is known

    monkeypatch.setattr(glb.importlib.util, "find_spec", lambda name: None)
    shape = load(edited(exported(table(), "glb"), compress), "glb")
    assert shape.status == "undecoded" and "install DracoPy" in shape.detail
    zeros = edited(exported(table(), "glb"), lambda c: [a.pop("bufferView", None) for a in c["accessors"] if a["type"] == "VEC3"])
    assert load(zeros, "glb").status == "empty", "all vertices are zero"


def _cycle(contents):
    contents["nodes"] = [{"children": [1]}, {"children": [0], "mesh": 0}]
    contents["scenes"] = [{"nodes": [0]}]


def _bomb(contents):
    contents["nodes"] = [{"mesh": 0} for _ in range(90_000)]
    contents["scenes"] = [{"nodes": list(range(90_000))}]


def _claim(contents):
    contents["accessors"][0] = {"componentType": 5126, "type": "VEC3", "count": 10**11}


def _outside(contents):
    contents["buffers"][0]["uri"] = "../../secret.bin"


@pytest.mark.parametrize(
    ("edit", "status", "words"),
    [
        (_cycle, "unreadable", "descendants"),
        (_bomb, "too-large", "instances"),
        (_claim, "too-large", "claim"),
        (_outside, "unsafe", "another file"),
        (lambda c: c.pop("accessors"), "unreadable", ""),
        (lambda c: c.update(nodes=[{"mesh": 0, "children": [7]}]), "unreadable", ""),
        (lambda c: c.update(meshes={"a": 1}), "unreadable", ""),
    ],
    ids=["cycle", "instances", "claims", "outside", "no tables", "no such node", "nonsense"],
)
def test_a_hostile_glb_is_refused_before_it_is_unpacked(edit, status, words, monkeypatch):
    if status != "unreadable":
        monkeypatch.setattr(trimesh, "load_scene", lambda *a, **k: pytest.fail("it was unpacked"))
    shape = load(edited(exported(table(), "glb"), edit), "glb")
    assert shape.status == status and words in shape.detail


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_damaged_files_have_a_status(kind):
    data = exported(table(), kind)
    cuts = [b"", data[:3], data[: len(data) // 2], b"\0" * 300, data[:40] + bytes(255 - b for b in data[40:200]) + data[200:]]
    for cut in cuts:
        shape = load(cut, kind)
        assert shape.status in MEANING and (shape.mesh is None) == (shape.status in FAILED)


def test_files_within_bounds_only(tmp_path):
    file = tmp_path / "table.stl"
    file.write_bytes(exported(table(), "stl"))
    assert load(file).status == "ok"
    assert load(file, most_bytes=100).status == load(file.read_bytes(), "stl", most_bytes=100).status == "too-large"
    few = load(file, most_faces=100)
    assert few.status == "too-large" and "faces; at most 100" in few.detail
    assert load(b"", "blend").detail == "a file of kind 'blend'; expected one of glb, obj, ply, stl"
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.glb")


def test_an_obj_reads_no_other_file(tmp_path):
    (tmp_path / "evil.mtl").write_text("newmtl a\nmap_Kd /etc/hostname\n")
    file = tmp_path / "a.obj"
    file.write_text("mtllib evil.mtl\n" + exported(table(), "obj").decode())
    shape = load(file)
    assert shape.status == "ok" and outcome(shape, ROBUST).method == "exact"


def test_a_ply_that_claims_more_than_it_holds_is_refused_at_once():
    head = b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\nproperty float x\nproperty float y\nproperty float z\n"
    assert load(head + b"element face 1\nproperty list uchar int vertex_indices\nend_header\n" + b"\0" * 64, "ply").status in FAILED


def test_a_smooth_hull_of_many_points_has_few_corners_and_loses_none_that_matter():
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.5)
    box = trimesh.creation.box(bounds=[[-0.4, -0.4, -0.5], [0.4, 0.4, -0.3]])
    points = np.concatenate([ball.vertices, box.vertices])
    found = hull(points)
    assert len(ball.vertices) > 10_000 and len(found.vertices) <= CORNERS
    assert {tuple(v) for v in box.vertices.round(6)} <= {tuple(v) for v in found.vertices.round(6)}
    exact = trimesh.convex.convex_hull(points)
    volume = trimesh.Trimesh(found.vertices, found.faces, process=False).volume
    assert 0.995 < volume / exact.volume <= 1


def test_many_faces_are_no_trouble(monkeypatch):
    """A table divided until its vertices are too many for an exact hull."""
    monkeypatch.setattr(model, "LARGE", 10_000)
    mesh = table().subdivide().subdivide()
    shape = load(exported(mesh, "stl"), "stl")
    found = outcome(shape, ROBUST)
    assert len(shape.mesh.faces) > 40_000 and len(shape.mesh.vertices) > model.LARGE
    assert found.method == "exact" and found.tilt < 0.1
    assert solid(shape).volume == pytest.approx(0.128, rel=1e-5)


def test_the_bodies_survive_a_file():
    for name, make in BODIES.items():
        mesh = make()
        direct, read = outcome(Shape(mesh, "ok"), ROBUST), outcome(load(exported(mesh, "ply"), "ply"), ROBUST)
        assert read.stands() == direct.stands(), name
