"""Tiny pipelines of the image families, each with the parts and the scheduler of its real releases."""

from __future__ import annotations

from tests.conformance.family import Family

FAMILIES: list[Family] = []
