"""How a shape is simulated: the settings, and the two presets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tropism.errors import RewardError, nearest


@dataclass(frozen=True)
class Settings:
    """Lengths are in longest sides of the shape, which is scaled to 1 m since contact softness is absolute; times in seconds.

    steps: the budget, steps of ``step`` seconds each. It and never the clock ends a simulation, so that labels do not depend on machines.
    kick: velocity of the centre of mass (3) and angular velocity (3) at the start. friction: sliding. slope: degrees by which the floor
    falls toward +x. inertia: ``solid``, that of what the surface encloses; ``legacy``, the simulator's own rule, which counts overlaps
    several times (google-deepmind/mujoco issue 2152). object: ``largest`` component, or ``all`` with its crumbs. contact: one convex
    ``hull``, exact on a plane, or ``coacd``, a convex decomposition. integrator: of the simulator. angle: ``tilt`` of the vertical axis,
    to which yaw is no fall, or ``rotation`` about any axis. fall: degrees of tilt at which a run ends early; 180 never. quiet: speed
    (m/s, rad/s) below which, for half a second, it is at rest and the run ends; 0 never.
    """

    step: float = 0.004
    steps: int = 750
    kick: tuple[float, float, float, float, float, float] = (0.03, 0.02, 0.0, 0.1, -0.1, 0.0)
    friction: float = 1.0
    slope: float = 0.0
    inertia: Literal["solid", "legacy"] = "solid"
    object: Literal["largest", "all"] = "largest"
    contact: Literal["hull", "coacd"] = "hull"
    integrator: Literal["implicitfast", "euler"] = "implicitfast"
    angle: Literal["tilt", "rotation"] = "tilt"
    fall: float = 45.0
    quiet: float = 2e-3

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("step", self.step, 1e-4, 0.02),
            ("steps", self.steps, 1, 100_000),
            ("friction", self.friction, 0.0, 10.0),
            ("slope", self.slope, -45.0, 45.0),
            ("fall", self.fall, 1.0, 180.0),
            ("quiet", self.quiet, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise RewardError(f"simulation {name} {value} is outside {low} to {high}")
        if len(self.kick) != 6 or not all(math.isfinite(v) and abs(v) <= 10 for v in self.kick):
            raise RewardError(f"simulation kick {self.kick}; expected 3 velocities and 3 angular velocities of at most 10")


PRESETS: Mapping[str, Settings] = {
    # The largest component, its true inertia, a nudge, at most 3 s.
    "robust": Settings(),
    # Li et al. 2025, DSO, arXiv:2503.22677, section 4: MuJoCo's defaults, no nudge, 10 s; everything that is there, mesh inertia as it is.
    "dso": Settings(
        step=0.001,
        steps=10_000,
        kick=(0.0,) * 6,
        inertia="legacy",
        object="all",
        integrator="euler",
        angle="rotation",
        fall=180.0,
        quiet=0.0,
    ),
}


def preset(name: str) -> Settings:
    """The settings of a preset. Raises RewardError that lists them."""
    if name not in PRESETS:
        raise RewardError(f"no simulation preset '{name}'{nearest(name, PRESETS)}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
