"""Geometry: exact on boxes, and what it says of cheats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from tropism.evaluate import Estimate
from tropism.types import Rollout
from tropism_3d import furniture
from tropism_3d.evaluators.geometry import Geometry
from tropism_3d.fields import occupancy
from tropism_3d.geometry import LOST, Cloud, align, compare, footprint, likeness, rigid, silhouette_iou
from tropism_3d.rewards.likeness import Likeness, emptiness
from tropism_3d.shapes import Shape


def turned(degrees: float) -> np.ndarray:
    return trimesh.transformations.rotation_matrix(math.radians(degrees), [0.2, 0.1, 1.0])[:3, :3]


def test_the_rigid_motion_is_the_one_that_was_made_and_never_a_mirror():
    points = np.random.default_rng(0).normal(size=(50, 3))
    turn, shift = rigid(points, points @ turned(130).T + [1, 2, 3])
    np.testing.assert_allclose(turn, turned(130), atol=1e-12)
    np.testing.assert_allclose(shift, [1, 2, 3], atol=1e-12)
    assert np.linalg.det(rigid(points, points * [-1, 1, 1])[0]) == pytest.approx(1)


def test_alignment_undoes_a_small_turn():
    points = np.random.default_rng(0).uniform(-1, 1, (800, 3)) * [0.5, 0.3, 0.2]
    turn, _ = align(points @ turned(8), points)
    np.testing.assert_allclose(turn, turned(8), atol=1e-3)


def test_a_shape_is_like_itself_and_unlike_a_rod():
    box = Cloud.of([Shape(trimesh.creation.box((1, 0.6, 0.8)), "ok")])
    large = Cloud.of([Shape(trimesh.creation.box((10, 6, 8)).apply_translation([5, 0, 0]), "ok")], seed=1)
    rod = Cloud.of([Shape(trimesh.creation.box((1, 0.02, 0.02)), "ok")])
    chamfer, score = compare(box, large)
    assert score.item() > 0.999 and chamfer.item() < 0.02
    chamfer, score = compare(box, rod)
    assert score.item() < 0.2 and chamfer.item() > 0.1


def test_distances_of_parallel_plates_are_exact():
    flat = np.random.default_rng(0).uniform(-0.5, 0.5, (2000, 3)) * [1, 1, 0]
    chamfer, score = likeness(flat, flat)
    assert (chamfer, score) == (0, 1)
    half = flat[flat[:, 0] < 0]
    assert likeness(half, flat, tau=10)[1] == 1


def test_a_shape_that_is_not_there_is_as_far_as_can_be():
    box = Shape(trimesh.creation.box(), "ok")
    chamfer, score = compare(Cloud.of([box, Shape(None, "empty"), box]), Cloud.of([box, box, Shape(None, "empty")]))
    assert score.tolist() == [1, 0, 0] and chamfer[1:].tolist() == [LOST, LOST]


def test_footprints_are_the_area_of_the_two_lowest_layers():
    solid = torch.zeros(3, 8, 8, 8, dtype=torch.bool)
    solid[0, :, :, 2] = True  # a plate
    solid[1, 0, 0, 3:] = True  # a leg
    solid[1, 7, 7, 4:] = True  # another, one layer above
    assert footprint(solid).tolist() == [1, 2 / 64, 0]


def test_silhouettes_overlap_by_intersection_over_union():
    a, b = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    a[0, :2], b[0, 1:3] = 1, 1
    assert silhouette_iou(a, b).tolist() == pytest.approx([1 / 3, 1])


@pytest.fixture(scope="module")
def real() -> Rollout:
    items = furniture.Furniture().heldout[:3]
    media = {"occupancy": torch.cat([occupancy(furniture.field([item["object"]], item["view"])) for item in items])}
    return rollout(items, media)


def rollout(items: list[dict[str, object]], media: dict[str, torch.Tensor]) -> Rollout:
    from tropism.types import Condition

    count = len(items)
    cond = Condition(items=items, encoded={}, seed=torch.arange(count), group=torch.arange(count))
    return Rollout(cond=cond, x0=torch.zeros(count, 1), steps=None, media=media)  # type: ignore[arg-type]


def means(samples: Rollout, base: Rollout) -> dict[str, float]:
    return {name: value.mean if isinstance(value, Estimate) else value.double().mean().item() for name, value in Geometry()(samples, base)}


def test_the_real_objects_are_like_themselves(real: Rollout):
    found = means(real, real)
    assert found["3d/f-score-base"] == 1 and found["3d/chamfer-base"] == 0 and found["3d/volume-ratio"] == 1
    assert found["3d/f-score"] > 0.99 and found["3d/silhouette"] == 1 and found["3d/watertight"] == 1 and found["3d/meshless"] == 0


def test_filling_the_volume_and_growing_a_plate_show(real: Rollout):
    solid = real.media["occupancy"]
    plate = solid.clone()
    plate[..., 1:4] = 1
    honest, filled, plated = (
        means(rollout(real.cond.items, {"occupancy": media}), real) for media in (solid, torch.ones_like(solid), plate)
    )
    assert filled["3d/volume-ratio"] > 3 and filled["3d/f-score"] < honest["3d/f-score"] - 0.3 and filled["3d/silhouette"] < 0.8
    assert plated["3d/footprint"] == 1 > honest["3d/footprint"] and plated["3d/f-score-base"] < 0.95
    assert emptiness(torch.ones_like(solid)).tolist() == [0, 0, 0]


def test_an_empty_sample_is_counted_and_harms_no_other(real: Rollout):
    media = real.media["occupancy"].clone()
    media[1] = 0
    found = dict(Geometry()(rollout(real.cond.items, {"occupancy": media}), real))
    assert found["3d/meshless"].tolist() == [0, 1, 0]
    assert found["3d/f-score"][1] == 0 and found["3d/f-score"][[0, 2]].min() > 0.99


def test_likeness_is_the_f_score_to_the_item(real: Rollout):
    columns = [[item[key] for item in real.cond.items] for key in ("object", "view")]
    own = Likeness()(real.media["occupancy"], *columns)
    other = Likeness()(real.media["occupancy"].roll(1, 0), *columns)
    assert own.min() > 0.99 and other.mean() < own.mean() - 0.2
