"""Pairs from a ranking: every two media of one prompt, the one of the smaller rank preferred."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from tropism.data.media import Media
from tropism.data.records import Preference


def pairs(prompt: str, media: Sequence[Media], ranks: Sequence[float], meta: dict[str, Any]) -> Iterator[Preference]:
    """All pairs of ``media`` in their order; equal ranks are a tie. ``meta`` of each has the two ranks besides."""
    for a, b in combinations(range(len(media)), 2):
        choice = 0.5 if ranks[a] == ranks[b] else float(ranks[a] < ranks[b])
        yield Preference(prompt, media[a], media[b], choice, meta={**meta, "ranks": [ranks[a], ranks[b]]})
