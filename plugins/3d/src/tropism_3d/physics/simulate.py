"""Shapes put on the floor, nudged and watched until they rest, fall or have used up their steps."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import mujoco
import numpy as np

from tropism_3d.physics.model import build, vary
from tropism_3d.physics.settings import Settings
from tropism_3d.physics.solid import Method, Solid, solid
from tropism_3d.shapes import Shape
from tropism_3d.statuses import FAILED, Status

BLOCK = 0.1  # seconds between looks
QUIET_BLOCKS = 5
DIVERGED = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
REFUSALS = (ValueError, RuntimeError, ArithmeticError, MemoryError, mujoco.FatalError)  # scipy's QhullError is a RuntimeError
# Left alone the simulator writes its warnings to MUJOCO_LOG.TXT wherever the program runs; what diverged has a status instead.
if mujoco.get_mju_user_warning() is None:
    mujoco.set_mju_user_warning(lambda text: None)
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Outcome:
    """What became of one shape. angle: degrees, 0 to 180, the one its settings ask for; 180 where there was no simulation.

    tilt: degrees of the vertical axis. rotation: degrees about any axis. drift: of the centre of mass along the floor, in longest sides.
    rest: seconds until it came to rest, infinite if it did not. method: how its mass was found. objects: how many the shape had.
    detail: the simulator's own words, or the reader's, where it was refused. pose: how it lies in the end, the rotation [w, x, y, z] from
    where it began.
    """

    status: Status
    angle: float = 180.0
    tilt: float = 180.0
    rotation: float = 180.0
    drift: float = 0.0
    rest: float = math.inf
    method: Method | None = None
    objects: int = 0
    detail: str = ""
    pose: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)

    @property
    def failed(self) -> bool:
        """Whether there was nothing to simulate, or no usable simulation."""
        return self.status in FAILED

    def stands(self, degrees: float = 20.0) -> bool:
        """The binary label: simulated, and turned by less than ``degrees``."""
        return not self.failed and self.angle < degrees


def simulate(shapes: Sequence[Shape], settings: Settings, threads: int | None = None) -> list[Outcome]:
    """One outcome a shape, in order. threads: as many as there are processors by default; results do not depend on it, to the bit.

    Nothing that is wrong with one shape, or that the simulator says of it, is raised: it is that shape's status.
    """
    return spread(lambda shape: outcome(shape, settings), shapes, threads)


def spread(work: Callable[[In], Out], items: Sequence[In], threads: int | None = None) -> list[Out]:
    """``work`` done on every item by threads: the simulator lets go of Python's lock, and each item is worked on alone."""
    workers = min(threads or os.cpu_count() or 1, len(items))
    if workers < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, items))


def outcome(shape: Shape, settings: Settings) -> Outcome:
    """Of one shape."""
    return outcomes(shape, [settings])[0]


def outcomes(shape: Shape, settings: Sequence[Settings]) -> list[Outcome]:
    """Of one shape under several settings that differ in kick, friction and slope alone: its body and its model are made once."""
    try:
        body = solid(shape, every=settings[0].object == "all")
    except REFUSALS as error:
        return [Outcome("rejected", detail=_words(error))] * len(settings)
    if not isinstance(body, Solid):
        return [Outcome(body, detail=shape.detail)] * len(settings)
    try:
        model = build(body, settings[0])
    except REFUSALS as error:
        return [Outcome("rejected", method=body.method, objects=body.objects, detail=_words(error))] * len(settings)
    return [_drop(body, model, one) for one in settings]


def _drop(body: Solid, model: mujoco.MjModel, settings: Settings) -> Outcome:
    vary(model, settings)
    data = mujoco.MjData(model)
    data.qvel[:6] = settings.kick
    status, rest = _run(model, data, settings)
    if status == "unstable":
        return Outcome(status, method=body.method, objects=body.objects)
    w, x, y, z = (data.qpos[3:7] / np.linalg.norm(data.qpos[3:7])).tolist()
    tilt = math.degrees(2 * math.asin(min(1.0, math.hypot(x, y))))
    rotation = math.degrees(2 * math.acos(min(1.0, abs(w))))
    drift = float(np.hypot(*(data.qpos[:2] - body.centre[:2])))
    angle = tilt if settings.angle == "tilt" else rotation
    return Outcome(status, angle, tilt, rotation, drift, rest, body.method, body.objects, pose=(w, x, y, z))


def _run(model: mujoco.MjModel, data: mujoco.MjData, settings: Settings) -> tuple[Status, float]:
    """Step until the end; how it ended, and the seconds until it had come to rest."""
    done, quiet = 0, 0
    while done < settings.steps:
        count = min(max(round(BLOCK / settings.step), 1), settings.steps - done)
        mujoco.mj_step(model, data, nstep=count)
        done += count
        if any(data.warning[kind].number for kind in DIVERGED) or not np.isfinite(data.qpos).all():
            return "unstable", math.inf
        if math.hypot(*data.qpos[4:6]) > math.sin(math.radians(settings.fall) / 2) and settings.fall < 180:
            return "fallen", math.inf
        quiet = quiet + 1 if np.abs(data.qvel).max() < settings.quiet else 0
        if quiet == QUIET_BLOCKS:
            return "settled", (done - count * quiet) * settings.step
    return "unsettled", math.inf


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]
