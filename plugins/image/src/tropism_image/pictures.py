"""Pictures of data sets as tensors: the ``decode`` of the image modality, which trusts no file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from tropism.data.faults import BadRow

PIXELS = 4096 * 4096  # more than any generator of today makes; decoded as floats it is 200 MB


class Pictures:
    """Bytes of one picture -> float32 [3, H, W] in [0, 1].

    size: pixels of a side, or (height, width); the picture is scaled until it covers that and the middle is kept, so that all pictures are
    of one shape and both of a pair are cut alike. None keeps every picture as it is. pixels: the most that a picture may have, read from
    its header before any of it is decoded. Transparent parts are seen on white. Raises BadRow.
    """

    def __init__(self, size: int | tuple[int, int] | None = None, pixels: int = PIXELS) -> None:
        self.size, self.pixels = (size, size) if isinstance(size, int) else size, pixels

    def __call__(self, parts: Sequence[bytes]) -> torch.Tensor:
        if len(parts) != 1:
            raise BadRow("unreadable media", f"found {len(parts)} frames; expected one picture")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is the stricter one
                image = Image.open(io.BytesIO(parts[0]))
                if image.width * image.height > self.pixels:
                    raise BadRow("huge media", f"{image.width} x {image.height} pixels; the limit is {self.pixels} in all")
                return self.tensor(ImageOps.exif_transpose(image))
        except UnidentifiedImageError as error:
            raise BadRow("unreadable media", "not a picture of a known format") from error
        except Image.DecompressionBombError as error:  # Pillow's own limit, 179 million pixels, met while the header is read
            raise BadRow("huge media", str(error)) from error
        except (OSError, SyntaxError, ValueError) as error:  # all that Pillow raises for damaged files
            raise BadRow("unreadable media", f"damaged picture: {error}") from error

    def tensor(self, image: Image.Image) -> torch.Tensor:
        """A picture that is already decoded, in the same way."""
        if image.mode.startswith(("I", "F")):
            raise BadRow("unreadable media", f"pixels of mode '{image.mode}'; expected 8 bits a channel")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        if self.size is not None:
            image = ImageOps.fit(image, (self.size[1], self.size[0]), Image.Resampling.LANCZOS)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return pixels.view(image.height, image.width, 3).permute(2, 0, 1).float().div(255).contiguous()
