"""Batches of decoded media from a stream of records; what cannot be decoded is counted and the next record takes its place.

Where several processes share a batch, each takes its rows of it: all draw the same records and find the same of them damaged, but only
the rows that are wanted are finished (encoded to latents) and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from tropism.data.faults import BadRow
from tropism.data.kept import Kept
from tropism.data.media import Media
from tropism.data.records import Label, Preference, Record
from tropism.data.stream import Stream
from tropism.data.tally import Tally
from tropism.errors import DataError, TropismError
from tropism.types import Item

Decode = Callable[[list[bytes]], torch.Tensor]  # the bytes of a medium's parts -> [3, H, W] in [0, 1], or what the modality has
Finish = Callable[[torch.Tensor], torch.Tensor]  # a decoded medium -> what is learned from, e.g. latents; of one medium, without batch
R = TypeVar("R", Preference, Label)


@dataclass(frozen=True)
class DecodedPairs:
    """P pairs, their prompts not yet encoded; :class:`tropism.types.Pairs` has the same fields with conditions."""

    items: list[Item]  # P items: the prompt
    winner: torch.Tensor  # [P, ...] decoded, and finished where there is a ``finish``
    loser: torch.Tensor  # [P, ...]
    weight: torch.Tensor  # [P] float32; 0 for a tie that was kept, unless its segments say more
    chance: torch.Tensor  # [P] float32 in [0.5, 1]: the probability that the winner is the better one
    segments: torch.Tensor | None  # [P, F] float32: 1 where the winner is better, -1 the loser, 0 a tie; None unless every pair has F
    meta: list[dict[str, Any]]
    number: list[int]  # of each among all that were taken


@dataclass(frozen=True)
class DecodedLabels:
    """M labelled media, their prompts not yet encoded; :class:`tropism.types.Labelled` has the same fields with conditions."""

    items: list[Item]
    media: torch.Tensor  # [M, ...] decoded, and finished where there is a ``finish``
    label: torch.Tensor  # [M] float32: 1 good, -1 bad
    weight: torch.Tensor  # [M] float32
    meta: list[dict[str, Any]]
    number: list[int]  # of each among all that were taken


class Batches:
    """Takes records from ``stream``, decodes them and makes batches. ``tally`` counts what could not be decoded in the first pass.

    What ``finish`` makes of a medium is kept, up to ``limit`` bytes in all, so that a medium that comes again is not even read.
    """

    def __init__(self, stream: Stream, decode: Decode, finish: Finish | None = None, limit: int = 0) -> None:
        self.stream, self.decode, self.finish, self.kept = stream, decode, finish, Kept(limit)
        self.tally = Tally()
        self.taken = 0  # records given in batches
        self._fruitful = stream.epoch  # the last pass in which something could be decoded

    def pairs(self, count: int, rows: Sequence[int] | None = None) -> DecodedPairs:
        """The next ``count`` pairs, or of them the ``rows``. Raises DataError for a data set of labels, and where shapes differ."""
        records, media, number = self._take(count, Preference, rows)
        return DecodedPairs(
            items=[{"prompt": record.prompt} for record in records],
            winner=_stack([both[record.choice < 0.5] for record, both in zip(records, media)]),
            loser=_stack([both[record.choice >= 0.5] for record, both in zip(records, media)]),
            weight=torch.tensor([0.0 if record.tie and not record.segments else record.weight for record in records]),
            chance=torch.tensor([max(record.choice, 1 - record.choice) for record in records]),
            segments=_segments(records),
            meta=[record.meta for record in records],
            number=number,
        )

    def labels(self, count: int, rows: Sequence[int] | None = None) -> DecodedLabels:
        """The next ``count`` labelled media, or of them the ``rows``. Raises DataError for a data set of pairs, and where shapes differ."""
        records, media, number = self._take(count, Label, rows)
        return DecodedLabels(
            items=[{"prompt": record.prompt} for record in records],
            media=_stack([one for (one,) in media]),
            label=torch.tensor([1.0 if record.label else -1.0 for record in records]),
            weight=torch.tensor([record.weight for record in records]),
            meta=[record.meta for record in records],
            number=number,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"stream": self.stream.state_dict(), "tally": self.tally.state_dict(), "taken": self.taken, "fruitful": self._fruitful}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state["stream"])
        self.tally.load_state_dict(state["tally"])
        self.taken, self._fruitful = state["taken"], state["fruitful"]

    def _take(self, count: int, kind: type[R], rows: Sequence[int] | None) -> tuple[list[R], list[list[torch.Tensor]], list[int]]:
        records: list[R] = []
        media: list[list[torch.Tensor]] = []
        wanted = range(count) if rows is None else rows
        while len(records) < count:
            record = next(self.stream)
            if not isinstance(record, kind):
                remedy = "read pairs as labels with tropism.data.unpaired" if kind is Label else "KTO and DRO learn from labels"
                raise DataError(f"found a {type(record).__name__} in the data where a {kind.__name__} was expected; {remedy}")
            try:
                decoded = self._decoded(record, len(records) in wanted)
            except BadRow as fault:
                self._failed(fault)
                continue
            records.append(record)
            media.append(decoded)
            self._fruitful = self.stream.epoch
        self.taken += count
        first = self.taken - count
        return [records[row] for row in wanted], [media[row] for row in wanted], [first + row for row in wanted]

    def _decoded(self, record: Record, wanted: bool) -> list[torch.Tensor]:
        """The tensors of a record: of a and b, or of its one medium. Those that are not wanted are not finished."""
        sources = [record.a, record.b] if isinstance(record, Preference) else [record.media]
        tensors = [self._finished(media) if wanted and self.finish is not None else self._read(media) for media in sources]
        if any(tensor.shape != tensors[0].shape for tensor in tensors):
            found = " and ".join(f"{media.name} {list(tensor.shape)}" for media, tensor in zip(sources, tensors))
            raise BadRow("unequal media", f"{found}; a pair needs one shape")
        return tensors

    def _finished(self, media: Media) -> torch.Tensor:
        assert self.finish is not None
        found = self.kept.get(media.identity())
        if found is None:
            # One by one, so that no bit of it depends on what else is in a batch, or on what was kept when a run was taken up.
            found = self.finish(self._read(media))
            self.kept.put(media.identity(), found)
        return found

    def _read(self, media: Media) -> torch.Tensor:
        parts = media.read(self.stream.limit)
        try:
            return self.decode(parts)
        except BadRow as fault:
            raise BadRow(fault.kind, f"{media.name}: {fault.reason}") from fault
        except TropismError:  # something is missing on this machine, not wrong with the row
            raise
        except Exception as error:  # damaged media make decoders raise anything; the row is named and the run goes on
            raise BadRow("unreadable media", f"{media.name}: {type(error).__name__}: {error}") from error

    def _failed(self, fault: BadRow) -> None:
        if self.stream.epoch == 0:
            self.tally.faults[fault.kind] += 1
            self.tally.name(fault.kind, fault.reason)
        if self.stream.epoch > self._fruitful + 1:
            found = "\n  ".join(self.tally.lines()[1:])
            raise DataError(f"nothing in a whole pass over the data could be decoded, lastly {fault.reason}\n  {found}")


def _stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    odd = next((tensor for tensor in tensors if tensor.shape != tensors[0].shape), None)
    if odd is not None:
        raise DataError(
            f"media of shapes {list(tensors[0].shape)} and {list(odd.shape)} make no batch; decode them to one size, or take one at a time"
        )
    return torch.stack(list(tensors))


def _segments(records: Sequence[Preference]) -> torch.Tensor | None:
    lengths = {len(record.segments) for record in records}
    if len(lengths) != 1 or lengths == {0}:
        return None
    return torch.tensor([[(2 * part - 1) * (1 if record.choice >= 0.5 else -1) for part in record.segments] for record in records])
