"""Tiny pipelines of the image families, each with the parts and the scheduler of its real releases."""

from __future__ import annotations

from tests.conformance import image_dit, image_flow, image_flux, image_pixels, image_qwen_edit, image_recent, image_unet
from tests.conformance.family import Family

FAMILIES: list[Family] = [
    *image_unet.FAMILIES,
    *image_dit.FAMILIES,
    *image_flow.FAMILIES,
    *image_flux.FAMILIES,
    *image_recent.FAMILIES,
    *image_qwen_edit.FAMILIES,
    *image_pixels.FAMILIES,
]
