"""Text in aligned columns, the same on a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

import click


def echo_table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Print rows with two spaces between columns; the header is bold on a terminal."""
    every = [header, *rows] if header else rows
    if not every:
        return
    widths = [max(len(row[column]) for row in every) for column in range(len(every[0]))]
    for index, row in enumerate(every):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if header and index == 0 else line)
