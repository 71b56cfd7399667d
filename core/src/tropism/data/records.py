"""What every reader yields, whatever the data set: a preference between two media, or a label on one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tropism.data.media import Media


@dataclass(frozen=True)
class Preference:
    """Two media for one prompt and which is liked better.

    choice: the probability that ``a`` is preferred: 1 a, 0 b, 0.5 a tie; between them where the data set has several votes.
    weight: of the row in a loss, 1 unless the data set says otherwise.
    meta: what else the row says, under the data set's own names.
    segments: choices of parts of the media in their order, where they were judged apart; empty otherwise.
    """

    prompt: str
    a: Media
    b: Media
    choice: float
    weight: float = 1.0
    meta: dict[str, Any] = field(default_factory=dict)
    segments: tuple[float, ...] = ()

    @property
    def tie(self) -> bool:
        return self.choice == 0.5


@dataclass(frozen=True)
class Label:
    """One medium for a prompt, and whether it is good."""

    prompt: str
    media: Media
    label: bool
    weight: float = 1.0
    meta: dict[str, Any] = field(default_factory=dict)


Record = Preference | Label
