"""Rows of a parquet file, a few at a time: only the row groups and columns that are asked for are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tropism.data.faults import BadRow
from tropism.errors import DataError

BATCH = 16  # rows decoded at a time; with two pictures each, some 10 MB
BUFFER = 2**20  # bytes read ahead in a column, instead of the whole row group


def rows(file: Path, start: int, columns: Collection[str] | None) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Rows from ``start`` on; row groups before it are skipped unread. A damaged group is one BadRow that says how many rows it held."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{file} needs pyarrow to be read\n  install it with: pip install 'tropism[data]'") from error
    try:
        table = ParquetFile(file, pre_buffer=False, buffer_size=BUFFER)
    except (pyarrow.ArrowException, OSError) as error:
        yield 0, BadRow("broken file", f"not a whole parquet file: {error}")
        return
    with table:
        names = [name for name in table.schema_arrow.names if columns is None or name in columns]
        begin = 0
        for group in range(table.metadata.num_row_groups):
            number, end = begin, begin + table.metadata.row_group(group).num_rows
            begin = end
            if end <= start:
                continue
            try:
                for batch in table.iter_batches(BATCH, row_groups=[group], columns=names):
                    skipped = min(max(start - number, 0), len(batch))
                    number += skipped
                    for row in batch.slice(skipped).to_pylist():
                        yield number, row
                        number += 1
            except (pyarrow.ArrowException, OSError) as error:
                yield number, BadRow("broken file", f"row group {group} is damaged: {error}", rows=end - number)
