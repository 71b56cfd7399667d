"""A plain folder: media, and a jsonl that names them."""

from __future__ import annotations

from collections.abc import Iterator

from tropism.data import tables
from tropism.data.faults import BadRow
from tropism.data.feedback import CHOICES
from tropism.data.layout import Layout, Where, cell, number, rest, text
from tropism.data.media import from_cell
from tropism.data.records import Label, Preference, Record
from tropism.data.trl import truth

PROMPT = ("prompt", "caption", "text")


class Folder(Layout):
    """A jsonl in a folder, paths relative to it, lines of any of these kinds:

    ``{"prompt", "a", "b", "choice"}`` with choice a, b, tie or the probability that a is better (every line one record;
    :class:`tropism.data.feedback.Judged` puts the votes on a pair together); ``{"prompt", "chosen", "rejected"}``;
    ``{"prompt", "file_name", "label"}`` with label true or false. The prompt may be called caption or text. ``weight`` is optional.
    """

    suffixes = (".jsonl",)

    def records(self, row: tables.Row, where: Where) -> Iterator[Record]:
        prompt, folders = text(row, *PROMPT), [where.file.parent]
        weight = number(row, "weight") if "weight" in row else 1.0
        if "label" in row:
            media = from_cell(cell(row, "file_name", "media", "completion"), f"{where} media", folders)
            yield Label(prompt, media, truth(row["label"], "label"), weight)
            return
        names = ("chosen", "rejected") if "chosen" in row else ("a", "b")
        a, b = (from_cell(cell(row, name), f"{where} {name}", folders) for name in names)
        choice = 1.0 if "chosen" in row else _choice(row)
        yield Preference(prompt, a, b, choice, weight, rest(row, "annotator", "seed"), _segments(row))


def _choice(row: tables.Row) -> float:
    said = cell(row, "choice")
    if isinstance(said, str) and said in CHOICES:
        return CHOICES[said]
    if isinstance(said, int | float) and not isinstance(said, bool) and 0 <= said <= 1:
        return float(said)
    raise BadRow("bad value", f"'choice' is {said!r}; expected a, b, tie or a probability")


def _segments(row: tables.Row) -> tuple[float, ...]:
    words = row.get("segments") or []
    if not isinstance(words, list):
        raise BadRow("bad value", f"'segments' is {words!r}; expected a list of choices")
    return tuple(_choice({"choice": word}) for word in words)
