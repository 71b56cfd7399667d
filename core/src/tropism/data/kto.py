"""Diffusion-KTO's csv (Li et al. 2024, arXiv 2404.04465): one picture a row, which won, lost, or did both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from tropism.data.faults import BadRow
from tropism.data.layout import Layout, Where, cell, text
from tropism.data.media import from_cell
from tropism.data.records import Label
from tropism.data.tables import Row
from tropism.data.trl import truth
from tropism.errors import DataError

Mixed = Literal["good", "bad", "skip"]


class Kto(Layout):
    """Columns ``file_name`` or ``file_path``, ``caption``, and ``split`` or ``label``: exclusive_win, exclusive_lose or intersections.

    A plain csv of ``media`` or ``completion``, ``prompt`` and ``label`` (true, false, 1, 0) is read too.
    intersections: what a picture is that won once and lost once; the released training takes it for good.
    images: the folder that the paths are relative to; by default the csv's own, then ``train`` in it.
    """

    suffixes = (".csv",)

    def __init__(self, path: str | Sequence[str], images: str | None = None, intersections: Mixed = "good") -> None:
        super().__init__(path)
        if intersections not in get_args(Mixed):
            raise DataError(f"intersections is '{intersections}'; expected one of {', '.join(get_args(Mixed))}")
        self.images = Path(images) if images is not None else None
        self.intersections = intersections

    def records(self, row: Row, where: Where) -> Iterator[Label]:
        said = str(cell(row, "split", "label")).strip()
        if said == "intersections" and self.intersections == "skip":
            raise BadRow("filtered", "won once and lost once")
        known = {"exclusive_win": True, "exclusive_lose": False, "intersections": self.intersections == "good"}
        label = known[said] if said in known else truth(said, "split" if "split" in row else "label")
        folders = [self.images] if self.images else [where.file.parent, where.file.parent / "train"]
        media = from_cell(cell(row, "file_name", "file_path", "media", "completion"), f"{where} picture", folders)
        yield Label(text(row, "caption", "prompt"), media, label, meta={"split": said})
