"""Prompts: the emoji names that the shipped generators learned, and the tenth that they never saw."""

from __future__ import annotations

import json
from pathlib import Path

from tropism.data.prompts import Order
from tropism.types import Item

FILE = Path(__file__).parent / "data" / "captions.json"


class EmojiCaptions:
    """``train``: four fifths of the known names, in a fixed shuffle. ``heldout``: the other fifth; with ``unseen``, names of which no
    shipped generator has seen a picture. limit: only the first so many training names (fewer prompts learn faster)."""

    def __init__(self, unseen: bool = False, limit: int | None = None) -> None:
        names = json.loads(FILE.read_text())
        seen = [names["seen"][index] for index in Order(len(names["seen"]), 0).take(0, len(names["seen"]))]
        cut = len(seen) // 5
        held = names["unseen"] if unseen else seen[:cut]
        self.heldout: list[Item] = [{"prompt": name} for name in held]
        self.train: list[Item] = [{"prompt": name} for name in seen[cut:][:limit]]
