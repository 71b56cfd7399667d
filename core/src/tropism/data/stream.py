"""An endless, seeded, resumable stream of records from files of any size.

What is in memory is one window of rows. A pass goes over the files in a seeded order and shuffles each window; where a run stands is then
three numbers, and taking it up again reads the window it stood in, nothing before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, get_args

import torch

from tropism.data.faults import BadRow
from tropism.data.layout import Layout, Where
from tropism.data.media import LIMIT
from tropism.data.records import Preference, Record
from tropism.data.tables import Row
from tropism.data.tally import Tally
from tropism.errors import DataError

Ties = Literal["skip", "keep"]
WINDOW = 1024  # rows; with two pictures of 100 kB in each, 200 MB where the pictures are in the table, nearly nothing where they are files


class Stream:
    """Records of ``layout``, pass after pass.

    seed: of the order of the files and of the shuffle within each ``window`` of rows; None keeps the order on disk.
    ties: left out and counted, or kept. limit: bytes of one picture, clip or sound.
    Bad rows are counted in ``tally`` (of the first pass) and passed over. Raises DataError when a whole pass has nothing usable.
    """

    def __init__(self, layout: Layout, *, seed: int | None = 0, window: int = WINDOW, ties: Ties = "skip", limit: int = LIMIT) -> None:
        if ties not in get_args(Ties) or window < 1:
            raise DataError(f"found ties '{ties}' and window {window}; expected ties 'skip' or 'keep' and a window of 1 row or more")
        self.layout, self.seed, self.window, self.ties, self.limit = layout, seed, window, ties, limit
        self.tally = Tally()
        self._later = Tally()  # of later passes, which only a pass without anything usable shows
        self.epoch = 0  # of the record that comes next, once it is known
        self._begin = (0, 0)  # the window's first row: place of the file in this pass's order, row in the file
        self._taken = 0  # records given of the window
        self._yield = 0  # records that this pass has given or holds
        self._open(self._begin)

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        while self._taken == len(self._held):
            self._advance()
        self._taken += 1
        return self._held[self._taken - 1]

    def one_pass(self) -> Iterator[Record]:
        """The records up to the end of the pass that the stream stands in."""
        epoch = self.epoch
        while True:
            while self._taken == len(self._held):
                self._advance()
                if self.epoch != epoch:
                    return
            yield next(self)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, for a checkpoint: the next record after loading it is the next one here."""
        return {
            "files": [file.name for file in self.layout.files],
            "seed": self.seed,
            "window": self.window,
            "epoch": self.epoch,
            "begin": list(self._begin),
            "taken": self._taken,
            "yield": self._before,
            "tally": self._tally_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where ``state`` was taken. Raises DataError for a state of other files, another seed or another window."""
        own = {"files": [file.name for file in self.layout.files], "seed": self.seed, "window": self.window}
        for name, value in own.items():
            if state[name] != value:
                raise DataError(f"the checkpoint's data had {name} {state[name]!r}; found {value!r}: resume with the data it was made with")
        self.epoch, self._yield = state["epoch"], state["yield"]
        self.tally.load_state_dict(state["tally"])
        self._open((state["begin"][0], state["begin"][1]))
        if state["taken"]:
            self._fill()
        if state["taken"] > len(self._held):
            raise DataError(
                f"the checkpoint stood at record {state['taken']} of a window that now has {len(self._held)}: the files have changed"
            )
        self._taken = state["taken"]

    def _open(self, begin: tuple[int, int]) -> None:
        """Stand before the row ``begin`` with nothing read."""
        self._begin = self._end = begin
        self._held: list[Record] = []
        self._taken = 0
        self._before, self._tally_before = self._yield, self.tally.state_dict()
        self._rows = self._pass(begin)

    def _advance(self) -> None:
        """The next window, of the next pass if this one is over."""
        self._begin = self._end
        if not self._fill():
            self._ended()
            self.epoch, self._yield, self._later = self.epoch + 1, 0, Tally()
            self._open((0, 0))

    def _fill(self) -> bool:
        """Read a window of rows into records; whether there was any row."""
        self._before, self._tally_before = self._yield, self.tally.state_dict()
        records: list[Record] = []
        read = 0
        for place, where, row in islice(self._rows, self.window):
            read += 1
            records.extend(self._judged(where, row))
            self._end = (place, where.row + (row.rows if isinstance(row, BadRow) else 1))
        self._yield += len(records)
        self._held = [records[number] for number in self._order(len(records), 1 + self._begin[0], self._begin[1])]
        self._taken = 0
        return read > 0

    def _pass(self, begin: tuple[int, int]) -> Iterator[tuple[int, Where, Row | BadRow]]:
        files = self.layout.files
        order = self._order(len(files), 0, 0)
        for place in range(begin[0], len(files)):
            file = files[order[place]]
            for number, row in self.layout.rows(file, begin[1] if place == begin[0] else 0):
                yield place, Where(file, number), row

    def _order(self, count: int, place: int, row: int) -> list[int]:
        """A permutation that follows from the seed, the pass and the place alone."""
        if self.seed is None:
            return list(range(count))
        mixed = ((self.seed * 1_000_003 + self.epoch) * 1_000_003 + place) * 1_000_003 + row
        return torch.randperm(count, generator=torch.Generator().manual_seed(mixed % 2**63)).tolist()

    def _judged(self, where: Where, row: Row | BadRow) -> Iterator[Record]:
        """The usable records of a row; everything else is counted."""
        tally = self.tally if self.epoch == 0 else self._later
        tally.rows += row.rows if isinstance(row, BadRow) else 1
        if isinstance(row, BadRow):
            tally.fault(where, row)
            return
        try:
            for record in self.layout.records(row, where):
                try:
                    for media in (record.a, record.b) if isinstance(record, Preference) else (record.media,):
                        media.check(self.limit)
                except BadRow as fault:  # of a ranking, the other pairs stay
                    tally.fault(where, fault)
                    continue
                tally.record(str(where), record)
                if not (isinstance(record, Preference) and record.tie and self.ties == "skip"):
                    tally.usable += 1
                    yield record
        except BadRow as fault:
            tally.fault(where, fault)

    def _ended(self) -> None:
        if self._yield == 0:
            files = f"{self.layout.files[0]}" + (f" and {len(self.layout.files) - 1} more" if len(self.layout.files) > 1 else "")
            tally = self.tally if self.epoch == 0 else self._later
            remedy = "\n  all that was judged is a tie; ties='keep' takes ties" if tally.ties else ""
            found = "\n  ".join(tally.lines())
            raise DataError(f"nothing usable in {files} as {type(self.layout).__name__}:\n  {found}{remedy}")
