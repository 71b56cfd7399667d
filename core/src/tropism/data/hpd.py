"""HPDv2 (Wu et al. 2023, arXiv 2306.09341) and HPDv3 (Ma et al. 2025, arXiv 2508.03789): json beside folders of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tropism.data.faults import BadRow
from tropism.data.layout import Layout, Where, cell, number, rest, text
from tropism.data.media import from_cell
from tropism.data.rankings import pairs
from tropism.data.records import Preference
from tropism.data.tables import Row


class Hpd2(Layout):
    """``train.json``: ``prompt``, ``file_path`` and ``human_preference`` (1 for the preferred) of two pictures.

    ``test.json``: ``prompt``, ``image_path`` and ``rank`` (averaged over annotators, smaller is better) of several; every pair is given.
    images: the folder of the pictures; by default the one named after the json (``train``, ``test``) beside it, then the json's own.
    """

    suffixes = (".json",)

    def __init__(self, path: str | Sequence[str], images: str | None = None) -> None:
        super().__init__(path)
        self.images = Path(images) if images is not None else None

    def records(self, row: Row, where: Where) -> Iterator[Preference]:
        filled = {name: value for name, value in row.items() if value not in (None, [])}  # converted copies have both columns, one empty
        paths = cell(filled, "file_path", "image_path", "image")
        scores = cell(filled, "human_preference", "rank")
        if not (isinstance(paths, list) and isinstance(scores, list) and len(paths) == len(scores) >= 2):
            raise BadRow("bad value", f"found {paths!r} with {scores!r}; expected as many judgements as pictures, two or more")
        if not all(isinstance(score, int | float) for score in scores):
            raise BadRow("bad value", f"the judgements are {scores!r}; expected numbers")
        ranks = [-score for score in scores] if "human_preference" in filled else scores
        beside = where.file.parent
        folders = [self.images] if self.images else [beside / where.file.stem, beside]
        media = [from_cell(path, f"{where} picture {place}", folders) for place, path in enumerate(paths)]
        yield from pairs(text(row, "prompt"), media, ranks, {})


class Hpd3(Layout):
    """``prompt``, ``path1`` (the preferred picture), ``path2``, ``choice_dist`` (votes, in any order), ``confidence``, ``model1/2``.

    soft: choice is the winner's share of the votes, as HPSv3 trains; False takes the winner for certain.
    confidence: leaves out rows of less confidence (HPSv3 trains above 0.95); rows that give none are kept.
    images: the folder that the paths are relative to; by default the json's own.
    """

    suffixes = (".json", ".jsonl")

    def __init__(self, path: str | Sequence[str], images: str | None = None, soft: bool = True, confidence: float | None = None) -> None:
        super().__init__(path)
        self.images = Path(images) if images is not None else None
        self.soft, self.confidence = soft, confidence

    def records(self, row: Row, where: Where) -> Iterator[Preference]:
        sure = row.get("confidence")
        if self.confidence is not None and sure not in (None, "null") and number(row, "confidence") < self.confidence:
            raise BadRow("filtered", f"confidence {sure} is below {self.confidence}")
        folders = [self.images or where.file.parent]
        a, b = (from_cell(cell(row, name), f"{where} {name}", folders) for name in ("path1", "path2"))
        choice = _share(row.get("choice_dist")) if self.soft else 1.0
        yield Preference(text(row, "prompt"), a, b, choice, meta=rest(row, "confidence", "choice_dist", "model1", "model2"))


def _share(votes: Any) -> float:
    if votes is None:
        return 1.0
    if not isinstance(votes, list) or len(votes) != 2 or not all(isinstance(vote, int | float) and vote >= 0 for vote in votes):
        raise BadRow("bad value", f"choice_dist is {votes!r}; expected the votes of two pictures")
    if sum(votes) == 0:
        raise BadRow("unlabelled", "choice_dist is [0, 0]")
    return float(max(votes) / sum(votes))
