"""A sweep: kicks from all sides, on floors that grip and slope differently; what counts is the share in which a shape stands."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from tropism.errors import RewardError
from tropism_3d.physics.settings import Settings

MOST = 256


@dataclass(frozen=True)
class Sweep:
    """directions: of the kick, evenly around, the first along +x. speeds: of the centre of mass, in longest sides a second; the body also
    begins to turn over that way, by three times as many radians a second, as from a push above its centre. frictions, slopes (degrees): of
    the floor.
    """

    directions: int = 4
    speeds: tuple[float, ...] = (0.05,)
    frictions: tuple[float, ...] = (0.4, 1.0)
    slopes: tuple[float, ...] = (0.0, 5.0)

    def settings(self, base: Settings) -> list[Settings]:
        """``base`` under every combination. Raises RewardError for none or too many."""
        count = self.directions * len(self.speeds) * len(self.frictions) * len(self.slopes)
        if not 1 <= count <= MOST:
            raise RewardError(f"a sweep of {count} settings; expected 1 to {MOST}")
        made = []
        for number, speed, friction, slope in itertools.product(range(self.directions), self.speeds, self.frictions, self.slopes):
            x, y = (f(2 * math.pi * number / self.directions) for f in (math.cos, math.sin))
            kick = (speed * x, speed * y, 0.0, -3 * speed * y, 3 * speed * x, 0.0)
            made.append(replace(base, kick=kick, friction=friction, slope=slope))
        return made
