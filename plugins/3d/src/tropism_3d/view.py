"""How shapes are saved and shown: a glb file on disk; in the page a shaded picture that becomes a mesh to turn when it is enlarged."""

from __future__ import annotations

import base64
import io
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image

from tropism.errors import TropismError
from tropism_3d.compact import pack
from tropism_3d.render import picture
from tropism_3d.shapes import Shape, from_occupancy

SIZE = 144  # pixels
LARGEST = 64 * 2**20  # bytes of a file that is shown


class ShapeView:
    """The view of every generator of 3D."""

    kind = "occupancy"

    @cached_property
    def script(self) -> str:
        """What makes the pictures turn: WebGL, no library, nothing loaded."""
        return (Path(__file__).parent / "viewer.js").read_text()

    def save(self, media: torch.Tensor, folder: Path, stem: str) -> str:
        """Write the surface of ``media`` (occupancy [N, N, N]) as ``<stem>.glb`` into ``folder``, y up, as glTF wants; returns its name.

        A sample without a surface becomes ``<stem>.txt``, which holds its status.
        """
        shape = from_occupancy(media[None])[0]
        folder.mkdir(parents=True, exist_ok=True)
        if shape.mesh is None:
            (folder / f"{stem}.txt").write_text(shape.status)
            return f"{stem}.txt"
        export(shape, folder / f"{stem}.glb")
        return f"{stem}.glb"

    def html(self, file: Path) -> str:
        """An ``<img>`` that holds a picture, and the mesh itself for ``script``. Raises TropismError for a file that is no shape."""
        try:
            if file.stat().st_size > LARGEST:
                raise ValueError(f"larger than {LARGEST} bytes")
            mesh, told = (None, file.read_text(errors="replace")[:40]) if file.suffix == ".txt" else (read(file), "")
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise TropismError(f"{file} cannot be shown: {error}") from error
        buffer = io.BytesIO()
        Image.fromarray(picture(mesh, SIZE)).save(buffer, "WEBP", quality=80)
        data = f' data-mesh="{pack(mesh)}"' if mesh is not None else ""
        alt = escape(f"sample {file.stem}" + (f": no mesh, {told}" if told else ""), quote=True)
        return (
            f'<img alt="{alt}" title="{alt if told else "enlarge to turn"}" width="{SIZE}" height="{SIZE}"{data} '
            f'src="data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
        )


def export(shape: Shape, path: Path) -> None:
    """Write a mesh as ``.glb`` or ``.obj``, by the path's ending, y up as those want. Raises TropismError where there is no mesh."""
    if path.suffix not in (".glb", ".obj"):
        raise TropismError(f"{path}: meshes are written as .glb or .obj, found '{path.suffix}'")
    if shape.mesh is None:
        raise TropismError(f"{path}: there is no mesh to write; the shape is '{shape.status}'")
    x, y, z = shape.mesh.vertices.T
    turned = shape.mesh.copy()
    turned.vertices = np.stack([x, z, -y], 1)
    turned.export(path)


def read(path: Path) -> trimesh.Trimesh:
    """A mesh that :func:`export` wrote, z up again."""
    mesh = trimesh.load(path, force="mesh", process=False)
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        raise ValueError("it holds no mesh")
    x, y, z = mesh.vertices.T
    mesh.vertices = np.stack([x, -z, y], 1)
    return mesh
