"""Tiny pipelines of the video families."""

from __future__ import annotations

from tests.conformance import video_dit, video_flow, video_unet, video_wan
from tests.conformance.family import Family

FAMILIES: list[Family] = [*video_unet.FAMILIES, *video_dit.FAMILIES, *video_flow.FAMILIES, *video_wan.FAMILIES]
