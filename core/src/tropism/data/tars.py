"""Samples of a tar file in webdataset's order: neighbouring members that share the name up to its first dot are one sample."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tropism.data.faults import BadRow
from tropism.data.media import LIMIT

KEY = "__key__"


def samples(file: Path, start: int, limit: int = LIMIT) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Number and content of the samples from ``start`` on: ``{"__key__": "000001", "jpg_0.jpg": bytes, ...}``.

    Those before ``start`` are passed over unread, and so is a member of more than ``limit`` bytes: its value is the BadRow that says so.
    """
    number, key = 0, ""
    sample: dict[str, Any] = {}
    try:
        with tarfile.open(file, "r:*") as tar:
            for member in _members(tar):
                stem, _, extension = Path(member.name).name.partition(".")
                name = str(Path(member.name).with_name(stem))
                if key and name != key:
                    if number >= start:
                        yield number, sample
                    number, sample = number + 1, {}
                key = sample[KEY] = name
                if number >= start:
                    sample[extension.lower()] = _content(tar, member, limit)
        if key and number >= start:
            yield number, sample
    except (tarfile.TarError, EOFError, OSError) as error:
        yield number, BadRow("broken file", f"sample '{key}': not a whole tar file: {error}" if key else f"not a tar file: {error}")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # tarfile remembers every member that it has seen, and a shard may have a million
        if member.isfile():
            yield member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes | BadRow:
    if member.size > limit:
        return BadRow("huge media", f"{member.name} has {member.size / 2**20:.1f} MB; the limit is {limit / 2**20:.1f} MB")
    stream = tar.extractfile(member)
    assert stream is not None  # a regular file has content
    return stream.read()
