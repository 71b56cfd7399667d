"""Rows of a file, one at a time from any row on, by the file's suffix: parquet, json, jsonl, csv.

Rows count from 0. What cannot be read comes as a BadRow in its place; rows before and after it are not lost with it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tropism.data import parquet
from tropism.data.faults import BadRow
from tropism.errors import DataError

Row = dict[str, Any]
Rows = Iterator[tuple[int, Row | BadRow]]

SUFFIXES = (".parquet", ".json", ".jsonl", ".csv")
CHUNK = 2**16  # characters read at a time
MARKED = "surrogateescape"  # a byte that is not UTF-8 spoils its own row, not the reading
LONGEST = 2**26  # characters of one row of text; beyond it a file is taken for damaged


def rows(file: Path, start: int, columns: Collection[str] | None = None) -> Rows:
    """Number and content of the rows of ``file`` from row ``start`` on. ``columns``: the only ones that parquet need read."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return parquet.rows(file, start, columns)
    if suffix == ".csv":
        return _csv(file, start)
    if suffix in (".json", ".jsonl"):
        return _array(file, start) if _first_character(file) == "[" else _lines(file, start)
    raise DataError(f"{file}: found suffix '{suffix}'; expected one of {', '.join(SUFFIXES)}")


def _first_character(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip()[:1].decode(errors="replace")


def _lines(file: Path, start: int) -> Rows:
    with file.open("rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(LONGEST), b"")):
            if number < start or not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:  # also UnicodeDecodeError
                end = "" if line.endswith(b"\n") else "; the line has no end, so the file was perhaps cut off"
                yield number, BadRow("broken file", f"not JSON: {error}{end}")
                continue
            yield number, value if isinstance(value, dict) else _no_object(value)


def _array(file: Path, start: int) -> Rows:
    """The objects of one JSON array, without ever holding more than a few of them."""
    decoder, number, text, place = json.JSONDecoder(), 0, "", 0
    with file.open(encoding="utf-8-sig", errors=MARKED) as stream:
        text = stream.read(CHUNK)
        place = text.index("[") + 1
        while True:
            while place < len(text) and text[place] in " \t\r\n,":
                place += 1
            if text.startswith("]", place):
                return
            try:
                value, end = decoder.raw_decode(text, place)
            except json.JSONDecodeError as error:
                if len(text) - place > LONGEST:
                    yield number, BadRow("broken file", f"not JSON from this row on: {error.msg}")
                    return
                more = stream.read(max(CHUNK, len(text) - place))  # as much again: a long row is parsed a few times, not once a chunk
                if not more:
                    yield number, BadRow("broken file", "the file ends in the middle of its rows")
                    return
                text, place = text[place:] + more, 0
                continue
            if number >= start:
                whole = value if isinstance(value, dict) else _no_object(value)
                yield number, whole if _is_utf8(text[place:end]) else BadRow("broken file", "not UTF-8")
            number, place = number + 1, end


def _csv(file: Path, start: int) -> Rows:
    with file.open(encoding="utf-8-sig", errors=MARKED, newline="") as stream:
        reader, number = csv.reader(stream), 0
        header = next(reader, [])
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, BadRow("broken file", f"not CSV: {error}")
                number += 1
                continue
            if not cells:
                continue
            if number >= start:
                yield number, _named(header, cells)
            number += 1


def _named(header: list[str], cells: list[str]) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow("broken file", f"found {len(cells)} cells; the header has {len(header)}")
    if not _is_utf8("".join(cells)):
        return BadRow("broken file", "not UTF-8")
    return dict(zip(header, cells))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_object(value: Any) -> BadRow:
    return BadRow("bad value", f"found {type(value).__name__}; expected an object with named values")
