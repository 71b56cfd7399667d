"""What a comparison leaves behind: its numbers, its page and its plot under one name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def keep(file: Path, found: Any) -> None:
    """Write JSON into a file that is there whole or not at all, and its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found))
    part.rename(file)


def write(out: Path, name: str, found: Mapping[str, Any], text: str, draw: Callable[[Path], None]) -> None:
    """Write ``out``/name.json, .md and, by ``draw``, .svg; and print the page."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(found, indent=1))
    (out / f"{name}.md").write_text(text)
    draw(out / f"{name}.svg")
    print(text)
