"""ImageRewardDB (Xu et al. 2023, arXiv 2304.05977): one picture a row, ranked among those of its prompt; all pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tropism.data import tables
from tropism.data.faults import BadRow
from tropism.data.layout import Layout, Where, cell, number, rest, text
from tropism.data.media import Media, from_cell
from tropism.data.rankings import pairs
from tropism.data.records import Preference
from tropism.data.tables import Row

RATINGS = ("overall_rating", "image_text_alignment_rating", "fidelity_rating")
OPEN = 256  # prompts whose pictures are still awaited; a file that scatters them more widely is read in parts


class ImageRewardDB(Layout):
    """``images/<split>/<part>/<part>.json`` or ``metadata-<split>.parquet``: ``prompt_id``, ``prompt``, ``image_path`` (or ``image``),
    ``rank`` (1 is best), ``image_amount_in_total`` and three ratings of 1 to 7.

    A row of this reader is all pictures of one prompt, put together as they are met: complete when ``image_amount_in_total`` are there,
    when more than 256 prompts are open, or at the end of the file. Faults name the file's own rows.
    images: the folder that holds ``images/``; by default the nearest one above the file under which the pictures are found.
    """

    suffixes = (".json", ".parquet")
    columns = frozenset({"prompt_id", "prompt", "image_path", "image", "rank", "image_amount_in_total", *RATINGS})

    def __init__(self, path: str | Sequence[str], images: str | None = None) -> None:
        super().__init__(path)
        self.images = Path(images) if images is not None else None

    def rows(self, file: Path, start: int) -> tables.Rows:
        order = 0
        for group in _grouped(tables.rows(file, 0, self.columns)):
            if order >= start:
                yield order, group
            order += group.rows if isinstance(group, BadRow) else 1

    def records(self, row: Row, where: Where) -> Iterator[Preference]:
        media: list[Media] = []
        ranks: list[float] = []
        for place, entry in row["pictures"]:
            ranks.append(number(entry, "rank"))
            media.append(self._picture(where.file, entry, f"{where.file} row {place} image"))
        first = row["pictures"][0][1]
        if len(media) == 1:
            raise BadRow("unlabelled", f"prompt {row['prompt_id']!r} has one picture only, which makes no pair")
        ratings = {name: [entry.get(name) for _, entry in row["pictures"]] for name in RATINGS if name in first}
        for pair in pairs(text(first, "prompt"), media, ranks, {"prompt_id": row["prompt_id"]}):
            places = [media.index(pair.a), media.index(pair.b)]
            pair.meta.update({name: [values[place] for place in places] for name, values in ratings.items()})
            yield pair

    def _picture(self, file: Path, entry: Row, name: str) -> Media:
        """``image_path`` starts at the root of the release; unpacked by the loading script, the picture lies beside the json."""
        found = cell(entry, "image_path", "image")
        if self.images is not None:
            return from_cell(found, name, [self.images])
        if isinstance(found, str) and (file.parent / Path(found).name).is_file():
            return from_cell(Path(found).name, name, [file.parent])
        return from_cell(found, name, [file.parent, *list(file.parent.parents)[:4]])


def _grouped(rows: tables.Rows) -> Iterator[Row | BadRow]:
    waiting: dict[Any, list[tuple[int, Row]]] = {}
    for place, row in rows:
        if isinstance(row, BadRow):
            yield BadRow(row.kind, f"row {place}: {row.reason}", row.rows)
            continue
        missing = [name for name in ("prompt_id", "rank") if row.get(name) is None]
        if missing:
            yield BadRow("missing column", f"row {place}: no '{missing[0]}'; the row has {', '.join(rest(row, *row))}")
            continue
        key = row["prompt_id"]
        waiting.setdefault(key, []).append((place, row))
        if len(waiting[key]) == row.get("image_amount_in_total"):
            yield {"prompt_id": key, "pictures": waiting.pop(key)}
        elif len(waiting) > OPEN:
            oldest = next(iter(waiting))
            yield {"prompt_id": oldest, "pictures": waiting.pop(oldest)}
    for key in list(waiting):
        yield {"prompt_id": key, "pictures": waiting.pop(key)}
