"""What can be wrong with one row of a data set; a bad row is named and counted and never ends a run by itself."""

from __future__ import annotations

KINDS = {
    "broken file": "rows that cannot be read: a truncated or damaged file",
    "missing column": "rows without a column that the format has",
    "bad value": "rows with a value that means nothing",
    "unlabelled": "rows that nobody judged",
    "filtered": "rows that this recipe leaves out",
    "missing media": "a picture, clip or sound that is not there",
    "empty media": "a picture, clip or sound of no bytes",
    "huge media": "a picture, clip or sound above the limits",
    "unreadable media": "a picture, clip or sound that cannot be decoded",
    "unequal media": "pairs of two shapes",
}


class BadRow(Exception):
    """A row, or ``rows`` of them, that cannot be used: a kind from KINDS, for counting, and the reason, for a person."""

    def __init__(self, kind: str, reason: str, rows: int = 1) -> None:
        assert kind in KINDS, kind
        super().__init__(reason)
        self.kind, self.reason, self.rows = kind, reason, rows
