"""Every way in which a shape or its simulation can end, by name and meaning: the one list of them."""

from __future__ import annotations

from typing import Literal, get_args

Status = Literal[
    "ok",
    "unreadable",
    "unsafe",
    "too-large",
    "undecoded",
    "empty",
    "non-finite",
    "flat",
    "rejected",
    "unstable",
    "unsettled",
    "fallen",
    "settled",
]

MEANING: dict[Status, str] = {
    # of a shape
    "ok": "a mesh that can be simulated",
    "unreadable": "the file is of no known format, or damaged",
    "unsafe": "the file names other files or unpacks to more than it may",
    "too-large": "more bytes, faces or vertices than the bounds allow",
    "undecoded": "Draco-compressed, and no decoder is installed: its vertices would all be zero",
    "empty": "no face with an area",
    "non-finite": "coordinates or values that are NaN or infinite",
    "flat": "all vertices lie in a plane, on a line or in a point",
    # of a simulation
    "rejected": "the simulator refused the model",
    "unstable": "the simulation diverged",
    "unsettled": "still moving when its steps were spent",
    "fallen": "tilted beyond recovery; stopped early",
    "settled": "came to rest",
}
FAILED: frozenset[Status] = frozenset(get_args(Status)) - {"ok", "unsettled", "fallen", "settled"}
