"""Tar files in webdataset's manner: pairs as diffusers' preference scripts write them, or one medium with its class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tropism.data import tables, tars
from tropism.data.faults import BadRow
from tropism.data.layout import Layout, Where, cell
from tropism.data.media import LIMIT, from_cell
from tropism.data.records import Label, Preference, Record
from tropism.data.tables import Row
from tropism.data.trl import truth

MEDIA = ("jpg", "jpeg", "png", "webp", "mp4", "webm", "gif", "wav", "flac", "mp3")
PROMPTS = ("original_prompt.txt", "caption.txt", "prompt.txt", "txt")
CLASSES = ("cls", "label.txt", "label")


class WebDataset(Layout):
    """Samples such as ``000001.{original_prompt.txt, jpg_0.jpg, jpg_1.jpg, label_0.txt, label_1.txt}``, labels 1, 0 or 0.5 for a tie,
    or ``000001.{txt, jpg, cls}`` with class 1 for good and 0 for bad. Tars may be compressed, which makes taking up a run slower.

    limit: bytes of one member; a larger one is never read.
    """

    suffixes = (".tar", ".tar.gz", ".tgz")

    def __init__(self, path: str | Sequence[str], limit: int = LIMIT) -> None:
        super().__init__(path)
        self.limit = limit

    def rows(self, file: Path, start: int) -> tables.Rows:
        return tars.samples(file, start, self.limit)

    def records(self, row: Row, where: Where) -> Iterator[Record]:
        meta = {"key": row[tars.KEY]}
        prompt = _words(row, *PROMPTS)
        if "label_0.txt" in row or "label_1.txt" in row:
            a, b = (_number(row, f"label_{side}.txt") for side in (0, 1))
            if {a, b} not in ({0.0, 1.0}, {0.5}):
                raise BadRow("bad value", f"sample '{row[tars.KEY]}': labels {a:g} and {b:g}; expected 1 and 0, or 0.5 twice")
            media = [from_cell(_medium(row, f"jpg_{side}."), f"{where} ('{row[tars.KEY]}') jpg_{side}", []) for side in (0, 1)]
            yield Preference(prompt, media[0], media[1], a, meta=meta)
            return
        label = truth(_words(row, *CLASSES), "cls")
        yield Label(prompt, from_cell(_medium(row, ""), f"{where} ('{row[tars.KEY]}')", []), label, meta=meta)


def _medium(row: Row, before: str) -> Any:
    """The content of ``<before><a suffix of a medium>``."""
    names = [before + suffix for suffix in MEDIA]
    if not any(name in row for name in names):
        raise BadRow(
            "missing media", f"sample '{row[tars.KEY]}' has no {names[0]} or the like; it has {', '.join(sorted({*row} - {tars.KEY}))}"
        )
    return cell(row, *names) or b""


def _words(row: Row, *names: str) -> str:
    content = cell(row, *names)
    try:
        words = bytes(content).decode().strip()
    except UnicodeDecodeError as error:
        raise BadRow("bad value", f"sample '{row[tars.KEY]}': '{names[0]}' is not UTF-8") from error
    if not words:
        raise BadRow("bad value", f"sample '{row[tars.KEY]}': '{names[0]}' is empty")
    return words


def _number(row: Row, name: str) -> float:
    words = _words(row, name)
    try:
        return float(words)
    except ValueError as error:
        raise BadRow("bad value", f"sample '{row[tars.KEY]}': '{name}' is {words!r}; expected 1, 0 or 0.5") from error
