"""Prompts from text files or from a list, and the order in which a run takes them."""

from __future__ import annotations

from pathlib import Path

import torch

from tropism.errors import RecipeError
from tropism.types import Item


class Prompts:
    """``train`` and ``heldout`` items from files (one prompt a line; blank lines and ``#`` comments skipped) or from lists."""

    def __init__(self, train: str | list[str], heldout: str | list[str] | None = None) -> None:
        self.train = _items(train)
        self.heldout = _items(heldout) if heldout is not None else self.train


class Order:
    """An endless seeded shuffle of n items; where a run stands in it follows from a counter, so resuming needs no state."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def take(self, begin: int, count: int) -> list[int]:
        """Item numbers at positions begin .. begin+count; every item once before any comes again."""
        taken: list[int] = []
        while len(taken) < count:
            epoch, offset = divmod(begin + len(taken), self.count)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            taken.extend(torch.randperm(self.count, generator=generator)[offset : offset + count - len(taken)].tolist())
        return taken


def _items(source: str | list[str]) -> list[Item]:
    if isinstance(source, str):
        path = Path(source)
        if not path.is_file():
            raise RecipeError(f"prompt file '{source}' not found; expected a text file with one prompt a line")
        lines = [line.strip() for line in path.read_text().splitlines()]
    else:
        lines = [line.strip() for line in source]
    kept = [line for line in lines if line and not line.startswith("#")]
    if not kept:
        raise RecipeError(f"no prompts in {source!r}")
    return [{"prompt": line} for line in kept]
