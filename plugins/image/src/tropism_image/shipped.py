"""Where the shipped weights are."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
TEACHER, STUDENT, FLOW = WEIGHTS / "teacher", WEIGHTS / "student", WEIGHTS / "flow"
SCORER_A, SCORER_B = WEIGHTS / "scorer-conv", WEIGHTS / "scorer-patch"
STATISTICS = WEIGHTS / "emoji-statistics.safetensors"
