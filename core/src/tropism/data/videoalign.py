"""VideoAlign's csv and VideoGen-RewardBench (Liu et al. 2025, arXiv 2501.13918): two clips, judged A, B or same on several aspects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tropism.data.faults import BadRow
from tropism.data.layout import Layout, Where, cell, rest, text
from tropism.data.media import from_cell
from tropism.data.records import Preference
from tropism.data.tables import Row
from tropism.errors import DataError, nearest

ASPECTS = ("VQ", "MQ", "TA", "Overall")  # visual quality, motion quality, text alignment
VALUES = {"a": 1.0, "b": 0.0, "same": 0.5}
META = ("A_model", "B_model", "fps_A", "fps_B", "num_frames_A", "num_frames_B")


class VideoAlign(Layout):
    """Columns ``path_A``, ``path_B``, ``prompt``, and ``VQ``, ``MQ``, ``TA`` or ``Overall`` in {A, B, same, invalid}.

    aspect: which of them decides; None takes ``Overall`` where the row has it and else the mean of the three, in which A counts 1, B 0
    and same a half, so that aspects that disagree give a soft choice. ``invalid`` aspects do not count.
    media: the folder that the paths are relative to; by default the csv's own.
    """

    suffixes = (".csv",)

    def __init__(self, path: str | Sequence[str], media: str | None = None, aspect: str | None = None) -> None:
        super().__init__(path)
        if aspect is not None and aspect not in ASPECTS:
            raise DataError(f"VideoAlign has no aspect '{aspect}'{nearest(aspect, ASPECTS)}; it has {', '.join(ASPECTS)}")
        self.media = Path(media) if media is not None else None
        self.aspect = aspect

    def records(self, row: Row, where: Where) -> Iterator[Preference]:
        judged = {name: _value(row, name) for name in ASPECTS if name in row}
        if self.aspect is not None:
            cell(row, self.aspect)
        asked = [self.aspect] if self.aspect else ["Overall"] if "Overall" in judged else [name for name in ASPECTS if name in judged]
        if not asked:
            cell(row, *ASPECTS)  # says which columns there are
        values = [value for name in asked if (value := judged[name]) is not None]
        if not values:
            raise BadRow("unlabelled", f"{' and '.join(asked)}: invalid")
        folders = [self.media or where.file.parent]
        a, b = (from_cell(cell(row, name), f"{where} {name}", folders) for name in ("path_A", "path_B"))
        meta = {"aspects": judged, **rest(row, *META, *(f"MOS_{side}_{name}" for side in "AB" for name in ASPECTS))}
        yield Preference(text(row, "prompt"), a, b, sum(values) / len(values), meta=meta)


def _value(row: Row, name: str) -> float | None:
    word = str(row[name]).strip().lower()
    if word == "invalid":
        return None
    if word not in VALUES:
        raise BadRow("bad value", f"'{name}' is {row[name]!r}; expected A, B, same or invalid")
    return VALUES[word]
