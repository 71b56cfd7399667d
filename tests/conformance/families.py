"""All families of tiny pipelines by name."""

from __future__ import annotations

from tests.conformance import audio, image, other, variants_image, variants_video, video
from tests.conformance.family import Family

__all__ = ["FAMILIES", "Family"]

FAMILIES: dict[str, Family] = {
    family.name: family for module in (image, video, audio, other, variants_image, variants_video) for family in module.FAMILIES
}
