"""A picture, clip or sound that a data set names: referred to, not yet read, and never decoded here.

The core knows no modality. It knows where the bytes are, how many they are, and that someone else turns them into a tensor: a
``decode`` callable, such as the image plugin's, takes the bytes of one medium (of several where a clip is stored as frames).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tropism.data.faults import BadRow

LIMIT = 64 * 2**20  # bytes of one part; a picture from a generator has at most some 10 MB, a clip of seconds less than this
SCHEMES = ("http://", "https://", "s3://", "gs://", "hf://")


@dataclass(frozen=True)
class Media:
    """One medium: its parts (one, or the frames of a clip in order), each as bytes in hand or as a path; ``name`` is for messages."""

    name: str
    parts: tuple[bytes | Path, ...]

    def check(self, limit: int = LIMIT) -> None:
        """Raise BadRow if a part is missing, empty or larger than ``limit`` bytes; looks at sizes only, reads nothing."""
        if not self.parts:
            raise BadRow("missing media", f"{self.name}: no picture, clip or sound is given")
        for part in self.parts:
            if isinstance(part, Path) and not part.is_file():
                raise BadRow("missing media", f"{self.name}: {part} not found")
            size = len(part) if isinstance(part, bytes) else part.stat().st_size
            what = self.name if isinstance(part, bytes) else f"{self.name}: {part}"
            if size == 0:
                raise BadRow("empty media", f"{what} has no bytes")
            if size > limit:
                raise BadRow("huge media", f"{what} has {size / 2**20:.1f} MB; the limit is {limit / 2**20:.1f} MB")

    def read(self, limit: int = LIMIT) -> list[bytes]:
        """The bytes of all parts, at most ``limit`` each. Raises BadRow as :meth:`check` does, also for a file that cannot be read."""
        self.check(limit)
        try:
            return [part if isinstance(part, bytes) else part.read_bytes() for part in self.parts]
        except OSError as error:
            raise BadRow("missing media", f"{self.name}: {error}") from error

    def identity(self) -> bytes:
        """Eight bytes that tell this medium from others: of its paths, or of its content where it has no path."""
        digest = blake2b(digest_size=8)
        for part in self.parts:
            digest.update(part if isinstance(part, bytes) else str(part).encode())
        return digest.digest()


def from_cell(cell: Any, name: str, folders: Sequence[Path]) -> Media:
    """The medium in one cell of a table.

    cell: bytes; a path relative to one of ``folders`` (the first that has it); ``{"bytes": ..., "path": ...}``, as the datasets library
    stores pictures and sounds; a list of these, the frames of a clip; or a conversation, the last message with a medium in it.
    """
    return Media(name, tuple(_parts(cell, name, folders)))


def locate(path: str, folders: Sequence[Path]) -> Path:
    """``path`` in the first of ``folders`` that has it; in the first folder of all if none has, so that a message can name it."""
    return next((folder / path for folder in folders if (folder / path).is_file()), folders[0] / path)


def _parts(cell: Any, name: str, folders: Sequence[Path]) -> list[bytes | Path]:
    if cell is None or cell == "" or cell == []:
        raise BadRow("missing media", f"{name}: the cell is empty")
    if isinstance(cell, bytes):
        return [cell]
    if isinstance(cell, str):
        if cell.startswith(SCHEMES):
            raise BadRow("missing media", f"{name}: {cell} is a web address; download it first and give its path")
        return [locate(cell, folders)]
    if isinstance(cell, Mapping) and ("bytes" in cell or "path" in cell):
        return _parts(cell.get("bytes") or cell.get("path"), name, folders)
    if isinstance(cell, list | tuple) and all(isinstance(entry, Mapping) and "content" in entry for entry in cell):
        return _parts(_spoken(cell, name), name, folders)
    if isinstance(cell, list | tuple):
        return [part for entry in cell for part in _parts(entry, name, folders)]
    raise BadRow("bad value", f"{name}: found {type(cell).__name__}; expected bytes, a path, or a mapping with 'bytes' or 'path'")


def _spoken(messages: Sequence[Mapping[str, Any]], name: str) -> Any:
    """What the last message that shows something shows: ``{"type": "image", "image": cell}`` among the parts of its content."""
    for message in reversed(messages):
        content = message["content"] if isinstance(message["content"], list) else []
        for part in content:
            shown = next((part[key] for key in ("image", "video", "audio", "path") if isinstance(part, Mapping) and part.get(key)), None)
            if shown is not None:
                return shown
    raise BadRow("missing media", f"{name}: the conversation has text only; expected a part such as {{'type': 'image', 'image': path}}")
