"""TRL's columns: ``prompt``, ``chosen``, ``rejected``, or unpaired ``prompt``, ``completion``, ``label``; what is chosen is a medium.

The same names serve audio-alpaca (``chosen`` and ``rejected`` as sounds) and any folder with such a jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tropism.data.faults import BadRow
from tropism.data.layout import Layout, Where, cell, number
from tropism.data.media import from_cell
from tropism.data.records import Label, Preference, Record
from tropism.data.tables import Row

GOOD = {"true": True, "1": True, "false": False, "0": False}


class Trl(Layout):
    """Parquet, json, jsonl or csv with TRL's columns, one kind of row or both.

    prompt: words, or a conversation whose last words of the user count; without it (TRL's implicit prompt) the conversation in
    ``chosen`` is asked. chosen, rejected, completion: bytes, a path, ``{"bytes", "path"}``, or a conversation that shows a medium.
    ``weight`` counts where the row has it. media: the folder that paths are relative to; by default the file's own.
    """

    def __init__(self, path: str | Sequence[str], media: str | None = None) -> None:
        super().__init__(path)
        self.media = Path(media) if media is not None else None

    def records(self, row: Row, where: Where) -> Iterator[Record]:
        folders = [self.media or where.file.parent]
        weight = number(row, "weight") if row.get("weight") not in (None, "") else 1.0
        kept = {"prompt", "chosen", "rejected", "completion", "media", "label", "weight"}
        meta = {name: value for name, value in row.items() if name not in kept and value is not None}
        if "label" in row and "chosen" not in row:
            media = from_cell(cell(row, "completion", "media"), f"{where} completion", folders)
            yield Label(_prompt(row, "completion"), media, truth(row["label"], "label"), weight, meta)
            return
        chosen, rejected = (from_cell(cell(row, name), f"{where} {name}", folders) for name in ("chosen", "rejected"))
        yield Preference(_prompt(row, "chosen"), chosen, rejected, 1.0, weight, meta)


def truth(value: Any, name: str) -> bool:
    """True or false, also as 1 and 0 or as words. Raises BadRow."""
    found = GOOD.get(str(value).strip().lower())
    if found is None:
        raise BadRow("bad value", f"'{name}' is {value!r}; expected true or false")
    return found


def _prompt(row: Row, other: str) -> str:
    said = row["prompt"] if row.get("prompt") is not None else cell(row, other)
    words = said if isinstance(said, str) and "prompt" in row else _spoken(said) if isinstance(said, list) else ""
    if not words.strip():
        raise BadRow("bad value", "no 'prompt', and no words of the user in the conversation")
    return words.strip()


def _spoken(messages: list[Any]) -> str:
    """The last words of the user: ``content`` is words, or parts of which those of type text are."""
    for message in reversed(messages):
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
            return " ".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and part.get("text"))
    return ""
