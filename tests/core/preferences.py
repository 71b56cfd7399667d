"""Data sets as they are released, written small: what the tests of the readers read. A medium's bytes here are words."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

PICKAPIC = {  # columns and types of yuvalkirstain/pickapic_v2
    "are_different": "bool_",
    "best_image_uid": "string",
    "caption": "string",
    "created_at": "string",
    "has_label": "bool_",
    "image_0_uid": "string",
    "image_0_url": "string",
    "image_1_uid": "string",
    "image_1_url": "string",
    "jpg_0": "binary",
    "jpg_1": "binary",
    "label_0": "float64",
    "label_1": "float64",
    "model_0": "string",
    "model_1": "string",
    "ranking_id": "int64",
    "user_id": "int64",
    "num_example_per_prompt": "int64",
}


def pickapic_row(number: int, label: float = 1.0, **changes: Any) -> dict[str, Any]:
    row = {
        "are_different": label != 0.5,
        "best_image_uid": f"uid-{number}-{0 if label == 1 else 1}",
        "caption": f"prompt {number}",
        "created_at": "2023-06-01 10:00:00",
        "has_label": True,
        "image_0_uid": f"uid-{number}-0",
        "image_0_url": "https://example.org/0.png",
        "image_1_uid": f"uid-{number}-1",
        "image_1_url": "https://example.org/1.png",
        "jpg_0": f"left {number}".encode(),
        "jpg_1": f"right {number}".encode(),
        "label_0": label,
        "label_1": 1 - label,
        "model_0": "stabilityai/stable-diffusion-xl-base-1.0",
        "model_1": "dreamlike-art/dreamlike-photoreal-2.0",
        "ranking_id": 1000 + number,
        "user_id": 7,
        "num_example_per_prompt": 3,
    }
    return {**row, **changes}


def parquet(file: Path, rows: list[dict[str, Any]], types: dict[str, str] | None = None, group: int = 4) -> Path:
    """Write ``rows`` in groups of ``group``; types are inferred unless given."""
    import pyarrow
    from pyarrow.parquet import write_table

    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in types.items()]) if types else None
    file.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.Table.from_pylist(rows, schema), file, row_group_size=group)
    return file


def pickapic(file: Path, rows: list[dict[str, Any]], group: int = 4) -> Path:
    return parquet(file, rows, {name: kind for name, kind in PICKAPIC.items() if rows and name in rows[0]}, group)


def as_json(file: Path, rows: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows))
    return file


def as_jsonl(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def as_csv(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def as_tar(file: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """``{"000001": {"jpg_0.jpg": bytes, ...}}`` as members ``000001.jpg_0.jpg``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as tar:
        for key, parts in samples.items():
            for extension, content in parts.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file


def tar_pair(number: int, label: str = "1") -> dict[str, bytes]:
    other = {"1": "0", "0": "1", "0.5": "0.5"}[label]
    return {
        "original_prompt.txt": f"prompt {number}".encode(),
        "jpg_0.jpg": f"left {number}".encode(),
        "jpg_1.jpg": f"right {number}".encode(),
        "label_0.txt": label.encode(),
        "label_1.txt": other.encode(),
    }


def media(folder: Path, *names: str) -> None:
    """Files whose content is their name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(Path(name).name.encode())
