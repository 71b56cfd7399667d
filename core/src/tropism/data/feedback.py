"""Judgements of people and of judges on disk: one append-only jsonl, a line a vote.

    {"prompt": "a red fox", "a": "samples/12.png", "b": "samples/13.png", "choice": "a", "annotator": "anna", "seed": 7}

``a`` and ``b`` are files relative to the jsonl; ``choice`` is a, b or tie; ``segments`` (optional) holds one such word for each part of a
clip, in order; ``seed`` is that of the order in which the two were shown. Nothing is ever rewritten: who changes their mind adds a line,
and the later line counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tropism.data import tables
from tropism.data.faults import BadRow
from tropism.data.layout import Layout, Where, cell, text
from tropism.data.media import from_cell
from tropism.data.records import Preference
from tropism.errors import DataError, nearest

CHOICES = {"a": 1.0, "b": 0.0, "tie": 0.5}
Pair = tuple[str, str, str]  # prompt, and the two files in the order of their names


@dataclass(frozen=True)
class Vote:
    """One judgement by one annotator."""

    prompt: str
    a: str
    b: str
    choice: str
    annotator: str
    seed: int
    segments: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for word in (self.choice, *(self.segments or ())):
            if word not in CHOICES:
                raise DataError(f"found choice {word!r}{nearest(str(word), CHOICES)}; expected {', '.join(CHOICES)}")
        if self.a == self.b:
            raise DataError(f"'{self.a}' is compared with itself")

    @property
    def pair(self) -> Pair:
        return (self.prompt, min(self.a, self.b), max(self.a, self.b))

    def first(self, word: str) -> float:
        """What a choice says of the first file of ``pair``: 1 better, 0 worse, 0.5 equal."""
        return CHOICES[word] if self.a <= self.b else 1 - CHOICES[word]


@dataclass
class Judgement:
    """All that was said of one pair."""

    pair: Pair
    votes: dict[str, Vote] = field(default_factory=dict)  # the last vote of each annotator

    @property
    def choice(self) -> float:
        """The share of votes for the first file of ``pair``; a tie is half a vote for each."""
        return sum(vote.first(vote.choice) for vote in self.votes.values()) / len(self.votes)

    @property
    def conflict(self) -> bool:
        """Whether one annotator prefers the one and another the other."""
        return {0.0, 1.0} <= {vote.first(vote.choice) for vote in self.votes.values()}

    @property
    def segments(self) -> tuple[float, ...]:
        """The same share for each segment, from the votes that have as many segments as the latest of them."""
        given = [[vote.first(word) for word in vote.segments] for vote in self.votes.values() if vote.segments]
        alike = [words for words in given if len(words) == len(given[-1])]
        return tuple(sum(words) / len(alike) for words in zip(*alike))


@dataclass
class Summary:
    """What is in a feedback file. ``faults``: lines that could not be read, by number from 1, and why."""

    judgements: list[Judgement]
    votes: int
    revised: int  # votes that a later one of the same annotator replaces
    faults: list[str]

    @property
    def ties(self) -> list[Judgement]:
        return [judgement for judgement in self.judgements if judgement.choice == 0.5]

    @property
    def conflicts(self) -> list[Judgement]:
        return [judgement for judgement in self.judgements if judgement.conflict]

    def line(self) -> str:
        return (
            f"{self.votes} votes on {len(self.judgements)} pairs: {len(self.ties)} ties, {len(self.conflicts)} in conflict, "
            f"{self.revised} revised, {len(self.faults)} lines unreadable"
        )


class Feedback:
    """The file ``path``; it and its folder come with the first vote."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, vote: Vote) -> None:
        """Add a line, on disk when this returns. Lines of several writers do not mix; a line cut off by a crash is closed first."""
        line = {key: value for key, value in asdict(vote).items() if value is not None}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            cut = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, (b"\n" if cut else b"") + json.dumps(line, ensure_ascii=False).encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self) -> Summary:
        """All votes put together by pair, in the order in which pairs first occur. A file that is not there holds no vote."""
        judgements: dict[Pair, Judgement] = {}
        votes = revised = 0
        faults: list[str] = []
        for number, row in tables.rows(self.path, 0) if self.path.is_file() else ():
            try:
                vote = parse(row)
            except (BadRow, DataError) as fault:
                faults.append(f"line {number + 1}: {fault}")
                continue
            judgement = judgements.setdefault(vote.pair, Judgement(vote.pair))
            votes += 1
            revised += judgement.votes.pop(vote.annotator, None) is not None
            judgement.votes[vote.annotator] = vote
        return Summary(list(judgements.values()), votes, revised, faults)


def parse(row: tables.Row | BadRow) -> Vote:
    """A vote from a line. Raises BadRow or DataError."""
    if isinstance(row, BadRow):
        raise row
    seed = cell(row, "seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise BadRow("bad value", f"'seed' is {seed!r}; expected a whole number")
    segments = row.get("segments")
    if segments is not None and not isinstance(segments, list):
        raise BadRow("bad value", f"'segments' is {segments!r}; expected a list of choices")
    words = tuple(segments) if segments else None
    names = {name: text(row, name) for name in ("prompt", "a", "b", "choice", "annotator")}
    return Vote(**names, seed=seed, segments=words)


class Judged(Layout):
    """Feedback files as a data set: one row a pair, its choice the share of the votes. What people label fits into memory."""

    suffixes = (".jsonl",)

    def __init__(self, path: str | Sequence[str], media: str | None = None) -> None:
        super().__init__(path)
        self.media = Path(media) if media is not None else None

    def rows(self, file: Path, start: int) -> tables.Rows:
        summary = Feedback(file).read()
        found: list[tables.Row | BadRow] = [BadRow("broken file", fault) for fault in summary.faults]
        found += [{"judgement": judgement} for judgement in summary.judgements]
        yield from list(enumerate(found))[start:]

    def records(self, row: tables.Row, where: Where) -> Iterator[Preference]:
        judgement: Judgement = row["judgement"]
        prompt, *files = judgement.pair
        folders = [self.media or where.file.parent]
        a, b = (from_cell(name, f"{where.file} '{name}'", folders) for name in files)
        meta: dict[str, Any] = {"annotators": sorted(judgement.votes), "conflict": judgement.conflict}
        yield Preference(prompt, a, b, judgement.choice, meta=meta, segments=judgement.segments)
