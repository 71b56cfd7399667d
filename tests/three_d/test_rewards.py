"""Rewards of occupancy: the contract, what the scores mean, and that a failed mesh stops nobody."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tropism import plugins
from tropism.errors import RewardError
from tropism.rewards.base import score
from tropism.testing import RewardContract
from tropism_3d.physics.settings import PRESETS
from tropism_3d.physics.simulate import Outcome
from tropism_3d.physics.support import inset
from tropism_3d.rewards import outcomes
from tropism_3d.rewards.stability import Robustness, Simulated, Stability, Stands, grade
from tropism_3d.rewards.support import SupportMargin

SIZE = 20


def blocks(*boxes: tuple[tuple[int, int, int], tuple[int, int, int]]) -> torch.Tensor:
    """A field [SIZE, SIZE, SIZE] that is 1 in boxes of voxels (first, one past the last)."""
    field = torch.zeros(SIZE, SIZE, SIZE)
    for low, high in boxes:
        field[tuple(slice(a, b) for a, b in zip(low, high))] = 1
    return field


TOP = ((2, 2, 8), (18, 18, 10))
FEET = [((x, y, 0), (x + 2, y + 2, 8)) for x, y in ((2, 2), (16, 2), (2, 16), (16, 16))]
FIELDS = {
    "table": blocks(TOP, *FEET),
    "two legs": blocks(TOP, FEET[0], FEET[2]),
    "one leg": blocks(TOP, FEET[0]),
    "post": blocks(((8, 8, 0), (12, 12, 18))),
    "nothing": torch.zeros(SIZE, SIZE, SIZE),
    "not numbers": torch.full((SIZE, SIZE, SIZE), torch.nan),
}
SAMPLES = torch.stack(list(FIELDS.values()))


@pytest.fixture(params=[Stability, Stands, Simulated, Robustness, SupportMargin])
def reward(request):
    return request.param()


class TestContract(RewardContract):
    @pytest.fixture
    def given(self):
        return {"occupancy": SAMPLES[:5]}


def test_stability_says_how_upright():
    table, two, one, post, nothing, nan = Stability()(SAMPLES).tolist()
    assert table == post == 1.0, "what stands is equal, whatever it sinks into the floor"
    assert 0 < two < 0.4 and 0 <= one < 0.4
    assert nothing == nan == -1.0


def test_grades_fall_evenly_from_one_degree_to_forty_five():
    assert [grade(Outcome("settled", angle)) for angle in (0, 1, 23, 45, 180)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert grade(Outcome("fallen", 46)) == 0 and grade(Outcome("unsettled", 0.2)) == 1
    assert grade(Outcome("empty")) == grade(Outcome("unstable")) == -1


def test_stands_is_the_label_at_its_degrees():
    assert Stands()(SAMPLES).tolist() == [1, 0, 0, 1, 0, 0]
    lean = Stability().outcomes(SAMPLES)[1].tilt
    assert Stands(degrees=lean + 1)(SAMPLES)[1] == 1 and Stands(degrees=lean - 1)(SAMPLES)[1] == 0


def test_simulated_is_the_share_without_fault():
    assert Simulated()(SAMPLES).tolist() == [1, 1, 1, 1, 0, 0]
    assert [one.status for one in Simulated().outcomes(SAMPLES)[4:]] == ["empty", "non-finite"]


def test_robustness_is_a_share_and_a_harder_push_makes_it_smaller():
    soft, hard = Robustness(), Robustness(speeds=(0.05, 0.8))
    assert soft(SAMPLES).tolist() == [1, 0, 0, 1, 0, 0]
    table, post = hard(SAMPLES)[[0, 3]].tolist()
    assert table > post >= 0.5 and post < 1


def test_support_margin_of_a_post_is_the_angle_over_its_edge():
    table, two, one, post, nothing, nan = SupportMargin()(SAMPLES).tolist()
    # Marching cubes cuts the edges of a hard field, half a voxel deep: its lowest layer is that much smaller all around.
    assert post == pytest.approx(np.degrees(np.arctan2(2 - 0.5, 9)), abs=1)
    assert table > post > 0 > two and one < 0
    assert nothing == nan == -90


def test_distance_to_the_border_of_a_footprint():
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2], [1, 1.0]])
    assert inset(square, np.array([1.0, 0.5])) == pytest.approx(0.5)
    assert inset(square, np.array([5.0, 6.0])) == pytest.approx(-5)
    assert inset(np.array([[0, 0], [2, 0], [1, 0.0]]), np.array([1.0, 0.25])) == pytest.approx(-0.25)  # a line supports nothing
    assert inset(np.array([[0.0, 0.0]]), np.array([3.0, 4.0])) == pytest.approx(-5)


def test_a_sample_is_simulated_once_however_many_ask(monkeypatch):
    calls = []
    monkeypatch.setattr(outcomes, "_known", type(outcomes._known)())
    monkeypatch.setattr(outcomes, "outcomes", lambda shape, every: calls.append(shape) or [Outcome("settled", 0.0)] * len(every))
    for reward in (Stability(), Stands(), Simulated(), Stability()):
        reward(SAMPLES[:2])
    assert len(calls) == 2
    Stability(settings={"friction": 0.5})(SAMPLES[:2])
    assert len(calls) == 4


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(outcomes, "_known", type(outcomes._known)())
    monkeypatch.setattr(outcomes, "KEPT", 3)
    Stability()(SAMPLES)
    assert len(outcomes._known) == 3


def test_scores_do_not_depend_on_threads_or_dtype():
    one = Stability(threads=1)(SAMPLES)
    outcomes._known.clear()
    assert torch.equal(one, Stability(threads=5)(SAMPLES.to(torch.float16)))


def test_settings_are_named_and_checked():
    assert Stability("dso", {"steps": 100}).settings == replace(PRESETS["dso"], steps=100)
    for preset, changes, words in (
        ("robst", None, r"no simulation preset 'robst' \(did you mean 'robust'\?\)"),
        ("robust", {"stpes": 3}, r"no setting 'stpes' \(did you mean 'steps'\?\)"),
        ("robust", {"inertia": "hollow"}, "inertia: Input should be 'solid' or 'legacy'"),
        ("robust", {"steps": 0}, "steps 0 is outside 1 to 100000"),
        ("robust", {"step": float("nan")}, "step nan is outside"),
        ("robust", {"kick": [0, 0, 0, 0, 0, 99]}, "kick .* at most 10"),
    ):
        with pytest.raises(RewardError, match=words):
            Stability(preset, changes)
    with pytest.raises(RewardError, match="a sweep of 0 settings"):
        Robustness(frictions=())
    with pytest.raises(RewardError, match="degrees 0"):
        Stands(degrees=0)


def test_what_is_no_occupancy_is_an_error_that_names_the_reward():
    with pytest.raises(RewardError, match=r"'3d/stability' raised TropismError: occupancy is \[2, 3\]"):
        score("3d/stability", Stability(), {"occupancy": torch.zeros(2, 3)}, [0, 1])


def test_every_reward_of_the_plugin_can_be_loaded():
    _, catalog = plugins.manager()
    names = {name for (kind, name), origin in catalog.origin.items() if origin == "3d" and kind == "rewards"}
    assert names >= {"3d/stability", "3d/stands", "3d/simulated", "3d/robustness", "3d/support-margin"} and not catalog.faults
    assert all(callable(catalog.load("rewards", name)) for name in names)


def test_convex_decomposition_is_asked_for_by_name_and_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "coacd", None)
    with pytest.raises(RewardError, match=r"pip install 'tropism-3d\[coacd\]'"):
        Stability(settings={"contact": "coacd"})


def test_on_a_plane_convex_pieces_touch_where_the_hull_does():
    pytest.importorskip("coacd")
    post = FIELDS["post"][None]
    pieces = Stability(settings={"contact": "coacd"}).outcomes(post)[0]
    assert pieces.status == "settled" and pieces.tilt == pytest.approx(Stability().outcomes(post)[0].tilt, abs=0.1)
