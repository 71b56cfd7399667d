"""The data: furniture from Debian's package ``sweethome3d-furniture`` as filled voxels, with a credit for each model.

``python data.py WORK`` fetches the package with ``apt-get download`` into WORK; ``python data.py WORK --unpacked FOLDER`` reads the
``.sh3f`` libraries in a folder (of the unpacked package, or of Sweet Home 3D's own download). It writes ``furniture.npz`` and
``CREDITS.txt`` into WORK and, with ``--ship``, into the plugin. Kept: models that stand on the floor as they come, without doors, windows,
people, and whatever else is fixed to a wall. Nothing is random, so every run gives the same files.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import trimesh
from scipy import ndimage

from tropism_3d.fields import FLOOR
from tropism_3d.fields import SOLID as GRID

PACKAGE = "sweethome3d-furniture"
MARGIN = round(FLOOR * GRID)  # empty voxels around the object, so that its surface closes
POINTS = 400_000  # on the surface: some 30 for each voxel that it touches
LARGEST = 200 * 2**20  # bytes of a member of a library; more is no furniture
LICENCES = {
    "BlendSwap-CC-0": "CC0 1.0",
    "BlendSwap-CC-BY": "CC BY 3.0",
    "KatorLegaz": "CC BY 3.0 US",
    "Reallusion": "CC BY 3.0 US",
    "Scopia": "CC BY 3.0",
}
HERE = Path(__file__).resolve().parent.parent


def fetched(work: Path) -> Path:
    """The unpacked Debian package below ``work``; downloaded once."""
    folder = work / "package"
    if not folder.exists():
        subprocess.run(["apt-get", "download", PACKAGE], cwd=work, check=True)
        archive = next(iter(sorted(work.glob(f"{PACKAGE}_*.deb"))))
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    return folder


def catalogue(library: zipfile.ZipFile) -> list[dict[str, str]]:
    """The models of a library, each a dict of the catalogue's keys."""
    text = library.read("PluginFurnitureCatalog.properties").decode("latin-1")
    models: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(\w+)#(\d+)\s*=\s*(.*)", line):
            value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), match[3]).strip()
            models.setdefault(int(match[2]), {})[match[1]] = value
    return [models[number] for number in sorted(models)]


def stands(model: dict[str, str]) -> bool:
    """Whether a model rests on the floor in the orientation of its file, and is a piece of furniture."""
    return (
        model.get("movable") == "true"
        and model.get("doorOrWindow") != "true"
        and "modelRotation" not in model
        and float(model.get("elevation", "0") or 0) == 0
        and model.get("category") != "Characters"
    )


def mesh_of(library: zipfile.ZipFile, name: str) -> trimesh.Trimesh:
    """The geometry of an OBJ file of a library, without its materials, z up."""
    if library.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} is larger than {LARGEST} bytes")
    loaded = trimesh.load(io.BytesIO(library.read(name)), file_type="obj", force="mesh", skip_materials=True, process=False)
    x, y, z = loaded.vertices.T
    loaded.vertices = np.stack([x, -z, y], 1)  # a rotation; swapping two columns would mirror the object
    return loaded


def voxels(mesh: trimesh.Trimesh) -> np.ndarray:
    """The solid as booleans [GRID, GRID, GRID] (x, y, z): the longest side fills the grid up to the margin, the bottom rests on it."""
    low, high = mesh.bounds
    side = (high - low).max()
    if not np.isfinite(side) or side <= 0:
        raise ValueError("no extent")
    points, _ = trimesh.sample.sample_surface(mesh, POINTS, seed=0)
    inner = GRID - 2 * MARGIN
    corner = np.array([*(low[:2] + high[:2]) / 2 - side / 2, low[2]])
    index = np.clip(np.floor((points - corner) / side * inner), 0, inner - 1).astype(int) + MARGIN
    grid = np.zeros((GRID,) * 3, bool)
    grid[tuple(index.T)] = True
    return ndimage.binary_fill_holes(grid)


def read(folder: Path) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """Every model that stands, as (catalogue entry with ``library``, voxels). One that cannot be read is named and left out."""
    files = sorted(folder.rglob("*.sh3f"))
    if not files:
        raise SystemExit(f"{folder}: no .sh3f library below it; unpack Debian's {PACKAGE} there, or leave --unpacked away to fetch it")
    for file in files:
        with zipfile.ZipFile(file) as library:
            for model in filter(stands, catalogue(library)):
                try:
                    yield {**model, "library": file.stem}, voxels(mesh_of(library, model["model"].lstrip("/")))
                except (ValueError, KeyError, IndexError) as error:
                    print(f"left out: {file.stem} {model.get('name')}: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--unpacked", type=Path)
    parser.add_argument("--ship", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    models, grids, seen = [], [], set()
    for model, grid in read(args.unpacked or fetched(args.work)):
        packed = np.packbits(grid)
        if packed.tobytes() in seen or not 0.002 < grid.mean() < 0.75:
            continue  # the same shape in another colour; or a sheet of paper, or a full block
        seen.add(packed.tobytes())
        models.append(model)
        grids.append(packed)
    columns = {key: np.array([model.get(key, "") for model in models]) for key in ("name", "category")}
    columns["id"] = np.array([f"{m['library']}/{m['id'].partition('#')[2]}" for m in models])
    credits = [
        f"{m['library']}/{m['id'].partition('#')[2]}: {m['name']}, by {m.get('creator') or m['library']}, {LICENCES[m['library']]}"
        for m in models
    ]
    for folder in [args.work, *([HERE / "src/tropism_3d/data"] if args.ship else [])]:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / "furniture.npz", voxels=np.stack(grids), **columns)
        (folder / "CREDITS.txt").write_text("\n".join(credits) + "\n")
    size = (args.work / "furniture.npz").stat().st_size
    print(f"{len(models)} models, {size / 1e3:.0f} kB, occupancy {np.unpackbits(np.stack(grids)).mean():.3f}")


if __name__ == "__main__":
    main()
