"""The simulator against bodies whose fate is known, and against the faults of the public code."""

from __future__ import annotations

import itertools
from dataclasses import replace

import mujoco
import numpy as np
import pytest
import trimesh

from tests.three_d.bodies import BODIES, crumbed, shape, table, turned
from tropism_3d import physics
from tropism_3d.physics.model import build, vary
from tropism_3d.physics.settings import PRESETS
from tropism_3d.physics.simulate import outcome, outcomes, simulate
from tropism_3d.physics.sweep import Sweep
from tropism_3d.shapes import Shape

ROBUST, DSO = PRESETS["robust"], PRESETS["dso"]
TO_REST = replace(ROBUST, fall=180.0, steps=2500)
STILL = replace(TO_REST, kick=(0.0,) * 6)


@pytest.mark.parametrize(
    ("name", "still", "kicked", "drift"),
    [
        ("box", 0, 0, 0),
        ("cone", 0, 0, 0),
        ("cone on its tip", 0, 68.2, 0.72),  # its half angle is 21.8 degrees: it comes to lie on its side
        ("table", 0, 0, 0),
        ("table of three legs", 0, 0, 0),
        ("table of two legs", 37.9, 37.9, 0.37),
        ("L with an overhang", 45, 45, 0.45),
        ("pole", 0, 0, 0),
        ("sphere", 0, 10.1, 0.09),
        ("table over a crumb", 0, 0, 0),
    ],
)
def test_tilt_and_drift(name, still, kicked, drift):
    without, nudged = outcome(shape(name), STILL), outcome(shape(name), TO_REST)
    assert without.tilt == pytest.approx(still, abs=0.15) and nudged.tilt == pytest.approx(kicked, abs=0.3)
    assert nudged.drift == pytest.approx(drift, abs=0.01) and not nudged.failed


@pytest.mark.parametrize("name", list(BODIES))
def test_ending_early_and_within_three_seconds_changes_no_label(name):
    short, full = outcome(shape(name), ROBUST), outcome(shape(name), TO_REST)
    assert [short.stands(d) for d in (5, 10, 20)] == [full.stands(d) for d in (5, 10, 20)]
    assert (short.status == "fallen") == (short.tilt > 45)


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 10.0, 1e4])
def test_units_do_not_matter(scale):
    big = shape("table of two legs")
    big.mesh.apply_scale(scale)
    big.mesh.apply_translation([5 * scale, -2 * scale, 30 * scale])
    assert outcome(big, ROBUST).tilt == pytest.approx(outcome(shape("table of two legs"), ROBUST).tilt, abs=0.01)


@pytest.mark.parametrize("name", ["table", "cone on its tip", "table of two legs"])
def test_the_pose_is_how_it_lies_in_the_end(name):
    found = outcome(shape(name), TO_REST)
    turn = trimesh.transformations.quaternion_matrix(found.pose)
    assert np.degrees(np.arccos(turn[2, 2].clip(-1, 1))) == pytest.approx(found.tilt, abs=1e-3)
    lying = shape(name).mesh.apply_transform(turn)
    low, high = lying.vertices[:, 2].min(), lying.center_mass[2]
    feet = lying.vertices[lying.vertices[:, 2] < low + 0.02 * lying.extents.max(), :2]
    assert (feet.min(0) < lying.center_mass[:2]).all() and (feet.max(0) > lying.center_mass[:2]).all() and high > low


def test_rest_comes_within_a_second_for_what_stands_and_never_for_what_fell():
    assert outcome(shape("table"), ROBUST).rest < 1 and outcome(shape("table"), ROBUST).status == "settled"
    fallen = outcome(shape("cone on its tip"), ROBUST)
    assert fallen.status == "fallen" and fallen.rest == np.inf


def test_the_dso_preset_is_the_papers_and_has_its_faults():
    assert (DSO.step * DSO.steps, DSO.kick, DSO.inertia, DSO.angle) == (10.0, (0.0,) * 6, "legacy", "rotation")
    assert outcome(shape("cone on its tip"), DSO).angle < 1  # "stands"
    assert outcome(shape("table"), DSO).stands() and not outcome(shape("table of two legs"), DSO).stands()
    assert outcome(shape("table"), DSO).status == "unsettled"  # it looks for no rest


def test_yaw_is_no_fall_to_tilt_but_is_to_rotation():
    spin = replace(TO_REST, kick=(0.0, 0.0, 0.0, 0.0, 0.0, 5.0), friction=0.1)
    pole = outcome(shape("box"), spin)
    assert pole.tilt < 1 < 20 < pole.rotation and pole.stands()
    assert not outcome(shape("box"), replace(spin, angle="rotation")).stands()


def test_a_crumb_below_is_dropped_unless_all_is_asked_for():
    """Resting on a crumb in the middle the whole stands still, and falls when touched."""
    both = crumbed()
    assert outcome(Shape(both, "ok"), replace(STILL, object="all")).tilt < 0.5
    assert outcome(Shape(both, "ok"), replace(TO_REST, object="all")).tilt > 20
    alone = outcome(Shape(both, "ok"), TO_REST)
    assert alone.tilt < 0.1 and alone.objects == 2


def test_a_mirrored_object_has_the_mirrored_fate():
    """The reference swaps two columns, which mirrors the object; nothing here does."""
    plain = shape("table of two legs")
    mirrored = plain.mesh.copy()
    mirrored.vertices[:, 0] *= -1  # and its faces now look inward
    assert outcome(Shape(mirrored, "ok"), STILL).tilt == pytest.approx(outcome(plain, STILL).tilt, abs=0.05)


def test_threads_change_nothing_to_the_bit():
    many, short = [*map(shape, BODIES), Shape(None, "empty")], replace(ROBUST, steps=200)
    one = simulate(many, short, threads=1)
    assert one == simulate(many, short, threads=2) == simulate(many, short, threads=7)
    assert len({each.tilt for each in one}) == len(many)


def test_a_diverging_simulation_is_a_status_of_its_sample_alone(capfd, tmp_path, monkeypatch):
    def heavy(model, settings):
        vary(model, settings)
        if model.body_mass[1] < 200:
            model.opt.gravity[2] = 1e12

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(physics.simulate, "vary", heavy)
    box, thin, again = simulate([shape("box"), shape("pole"), shape("box")], ROBUST, threads=2)
    assert box == again and box.status == "settled"
    assert thin.status == "unstable" and thin.failed and not thin.stands(180) and thin.angle == 180
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", ""), "the simulator's warnings went somewhere"


def test_what_the_simulator_refuses_is_a_status_of_its_sample_alone(monkeypatch):
    def picky(body, settings):
        if body.volume < 0.2:
            raise mujoco.FatalError("too thin for me")
        return build(body, settings)

    monkeypatch.setattr(physics.simulate, "build", picky)
    box, thin = simulate([shape("box"), shape("pole")], ROBUST, threads=2)
    assert box.status == "settled" and thin.failed
    assert (thin.status, thin.detail) == ("rejected", "FatalError: too thin for me")


def test_a_steep_floor_makes_a_tall_box_fall_and_a_slippery_one_makes_it_slide():
    """A box 0.5 wide and 1 high tips on a slope of more than atan(0.5) = 26.6 degrees and slides where friction is below its tangent."""
    tall = shape("box")
    tall.mesh.vertices[:] = tall.mesh.vertices * [1, 0.5 / 0.6, 1]
    second = replace(STILL, steps=250)
    stays, falls, slides = outcomes(tall, [replace(second, slope=s, friction=f) for s, f in ((22, 1.0), (30, 1.0), (22, 0.2))])
    assert stays.tilt < 1 and stays.drift < 0.05
    assert falls.tilt > 45
    steady = 9.81 * (np.sin(np.radians(22)) - 0.2 * np.cos(np.radians(22))) / 2  # half a t^2 after a second
    assert slides.tilt < 5 and slides.drift == pytest.approx(steady, rel=0.05)


def test_a_sweep_has_every_combination_and_a_cone_on_its_tip_stands_in_none():
    settings = Sweep(directions=4, speeds=(0.05, 0.2), frictions=(0.4, 1.0), slopes=(0.0, 5.0)).settings(ROBUST)
    assert len(settings) == len(set(settings)) == 32
    assert {(s.friction, s.slope) for s in settings} == set(itertools.product((0.4, 1.0), (0.0, 5.0)))
    assert settings[0].kick == pytest.approx((0.05, 0, 0, 0, 0.15, 0))  # pushed along +x it turns about +y
    assert all(one.stands() for one in outcomes(shape("table"), settings))
    assert not any(one.stands() for one in outcomes(shape("cone on its tip"), settings))


def test_a_sweep_gives_what_each_setting_gives_alone():
    settings = Sweep().settings(ROBUST)[::5]
    assert outcomes(shape("sphere"), settings) == [outcome(shape("sphere"), one) for one in settings]


def test_a_tilted_table_falls_to_where_it_was_tilted():
    """Balanced on an edge and pushed over by 60 degrees it lands on its side: 90 from upright is 30 from here."""
    fallen = outcome(Shape(turned(table(), np.radians(60)), "ok"), STILL)
    assert fallen.tilt > 20
