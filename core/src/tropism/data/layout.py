"""What a reader of one data set's files is: which files, which columns, and what a row means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tropism.data import tables
from tropism.data.faults import BadRow
from tropism.data.records import Record
from tropism.errors import DataError, nearest


@dataclass(frozen=True)
class Where:
    """The file and the row (from 0) that something was found in."""

    file: Path
    row: int

    def __str__(self) -> str:
        return f"{self.file} row {self.row}"


class Layout(ABC):
    """A data set on disk as it was released.

    path: a file, a folder (all files of the format in it and below, by name), or a list of these. ``columns`` are those that the reader
    looks at, so that parquet need not read the others; None reads all.
    """

    suffixes: Sequence[str] = tables.SUFFIXES
    columns: frozenset[str] | None = None

    def __init__(self, path: str | Sequence[str]) -> None:
        self.files = found(path, self.suffixes)

    def rows(self, file: Path, start: int) -> tables.Rows:
        """Raw rows of one file from number ``start`` on. A row is what is read, shuffled and counted as one."""
        return tables.rows(file, start, self.columns)

    @abstractmethod
    def records(self, row: tables.Row, where: Where) -> Iterator[Record]:
        """What a row says; several records for a ranking. Raises BadRow."""


def found(path: str | Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """The files of a path or of several, in the order of their names. Raises DataError where there are none."""
    files: list[Path] = []
    for source in [Path(path)] if isinstance(path, str) else map(Path, path):
        if not source.exists():
            raise DataError(f"data '{source}' not found; expected a file or a folder with {' or '.join(suffixes)} files")
        inside = sorted(file for file in source.rglob("*") if file.name.endswith(tuple(suffixes))) if source.is_dir() else [source]
        if not inside:
            raise DataError(f"folder '{source}' has no {' or '.join(suffixes)} file; give the files themselves or another folder")
        files.extend(inside)
    return files


def cell(row: tables.Row, *names: str) -> Any:
    """The value of the first of ``names`` that the row has. Raises BadRow that tells the nearest column."""
    name = next((name for name in names if name in row), None)
    if name is None:
        raise BadRow("missing column", f"no '{names[0]}'{nearest(names[0], row)}; the row has {', '.join(map(str, row)) or 'nothing'}")
    if isinstance(row[name], BadRow):
        raise row[name]
    return row[name]


def text(row: tables.Row, *names: str) -> str:
    """A value that must be words."""
    value = cell(row, *names)
    if not isinstance(value, str) or not value.strip():
        raise BadRow("bad value", f"'{names[0]}' is {value!r}; expected a prompt")
    return value.strip()


def number(row: tables.Row, *names: str) -> float:
    """A value that must be a finite number, also when it is written as words in a csv."""
    value = cell(row, *names)
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = float("nan")
    if isinstance(value, bool) or result != result or abs(result) == float("inf"):
        raise BadRow("bad value", f"'{names[0]}' is {value!r}; expected a number")
    return result


def rest(row: tables.Row, *names: str) -> dict[str, Any]:
    """Those of ``names`` that the row has a value for: what a record's meta keeps."""
    return {name: row[name] for name in names if row.get(name) is not None}
