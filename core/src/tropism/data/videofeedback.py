"""VideoFeedback (He et al. 2024, arXiv 2406.15252): clips with scores of 1 to 4 on five aspects, as parquet or json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tropism.data.faults import BadRow
from tropism.data.layout import Layout, Where, cell, number, text
from tropism.data.media import Media, locate
from tropism.data.records import Label
from tropism.data.tables import Row
from tropism.errors import DataError, nearest

ASPECTS = ("visual quality", "temporal consistency", "dynamic degree", "text-to-video alignment", "factual consistency")


class VideoFeedback(Layout):
    """Columns ``id``, ``images`` (names of the frames), ``text prompt``, ``video link`` and the five aspects (names with spaces).

    A clip is ``<id>.mp4`` in ``media`` where that is there, else its frames, ``<name>`` or ``<id>/<name>``; by default ``media`` is
    the file's folder. It is good when its score is above ``good``. aspect: one of the five; None takes their mean.
    """

    suffixes = (".parquet", ".json", ".jsonl")
    columns = frozenset({"id", "images", "text prompt", *ASPECTS})

    def __init__(self, path: str | Sequence[str], media: str | None = None, aspect: str | None = None, good: float = 2.5) -> None:
        super().__init__(path)
        if aspect is not None and aspect not in ASPECTS:
            raise DataError(f"VideoFeedback has no aspect '{aspect}'{nearest(aspect, ASPECTS)}; it has {', '.join(ASPECTS)}")
        self.media = Path(media) if media is not None else None
        self.aspect, self.good = aspect, good

    def records(self, row: Row, where: Where) -> Iterator[Label]:
        scores = {name: number(row, name) for name in ASPECTS}
        wrong = next((name for name, score in scores.items() if not 1 <= score <= 4), None)
        if wrong is not None:
            raise BadRow("bad value", f"'{wrong}' is {scores[wrong]:g}; expected 1 to 4")
        score = scores[self.aspect] if self.aspect else sum(scores.values()) / len(scores)
        identity = str(cell(row, "id"))
        meta = {"id": identity, "scores": scores, "score": score}
        yield Label(text(row, "text prompt"), self._clip(row, identity, where), score > self.good, meta=meta)

    def _clip(self, row: Row, identity: str, where: Where) -> Media:
        folder = self.media or where.file.parent
        if (folder / f"{identity}.mp4").is_file():
            return Media(f"{where} clip", (folder / f"{identity}.mp4",))
        frames = cell(row, "images")
        if not isinstance(frames, list) or not frames or not all(isinstance(frame, str) for frame in frames):
            raise BadRow("missing media", f"no {identity}.mp4 in {folder}, and 'images' is {frames!r}; expected the names of frames")
        return Media(f"{where} clip", tuple(locate(frame, [folder, folder / identity]) for frame in frames))
