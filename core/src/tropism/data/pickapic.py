"""Pick-a-Pic v1 and v2 (Kirstain et al. 2023, arXiv 2305.01569): one pair of pictures a row, as parquet with the JPEGs inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tropism.data.faults import BadRow
from tropism.data.layout import Layout, Where, cell, number, rest, text
from tropism.data.media import from_cell
from tropism.data.records import Preference
from tropism.data.tables import Row

META = ("model_0", "model_1", "image_0_uid", "image_1_uid", "ranking_id", "user_id", "num_example_per_prompt")


class PickAPic(Layout):
    """Columns ``caption``, ``jpg_0``, ``jpg_1`` (bytes), ``label_0``, ``label_1`` (1 and 0, or 0.5 twice for a tie), ``has_label``.

    images: for the ``no_images`` edition, the folder of ``<uid>.jpg`` files; the addresses in the table are dead.
    """

    suffixes = (".parquet",)
    columns = frozenset({"caption", "jpg_0", "jpg_1", "label_0", "label_1", "has_label", *META})

    def __init__(self, path: str | Sequence[str], images: str | None = None) -> None:
        super().__init__(path)
        self.images = Path(images) if images is not None else None

    def records(self, row: Row, where: Where) -> Iterator[Preference]:
        if row.get("has_label") is False:
            raise BadRow("unlabelled", "has_label is false")
        a, b = number(row, "label_0"), number(row, "label_1")
        if {a, b} not in ({0.0, 1.0}, {0.5}):
            raise BadRow("bad value", f"label_0 is {a:g} and label_1 is {b:g}; expected 1 and 0, or 0.5 twice")
        cells = [self._picture(row, side) for side in (0, 1)]
        folders = [self.images or where.file.parent]
        media = [from_cell(found, f"{where} jpg_{side}", folders) for side, found in enumerate(cells)]
        yield Preference(text(row, "caption"), media[0], media[1], choice=a, meta=rest(row, *META))

    def _picture(self, row: Row, side: int) -> object:
        return cell(row, f"jpg_{side}") if self.images is None else f"{text(row, f'image_{side}_uid')}.jpg"
