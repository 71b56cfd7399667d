"""All families of tiny pipelines by name."""

from __future__ import annotations

from tests.conformance import audio, image, other, video
from tests.conformance.family import Family

__all__ = ["FAMILIES", "Family"]

FAMILIES: dict[str, Family] = {family.name: family for module in (image, video, audio, other) for family in module.FAMILIES}
