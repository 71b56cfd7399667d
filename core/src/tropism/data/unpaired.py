"""Pairs read as labels: what KTO and DRO make of a data set of preferences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tropism.data import tables
from tropism.data.layout import Layout, Where
from tropism.data.records import Label, Record


class Unpaired(Layout):
    """Every pair of ``layout`` as two labels, the preferred medium good and the other bad; ties give none, labels stay as they are."""

    def __init__(self, layout: Layout) -> None:
        self.files, self._layout = layout.files, layout

    def rows(self, file: Path, start: int) -> tables.Rows:
        return self._layout.rows(file, start)

    def records(self, row: tables.Row, where: Where) -> Iterator[Record]:
        for record in self._layout.records(row, where):
            if isinstance(record, Label):
                yield record
            elif not record.tie:
                for media, good in ((record.a, record.choice > 0.5), (record.b, record.choice < 0.5)):
                    yield Label(record.prompt, media, good, record.weight, record.meta)
