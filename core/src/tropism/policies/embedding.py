"""Media into finished samples: the inverse of what a captured pipeline does after its last step.

Learned by watching, as all of a capture is. What a pipeline gives its autoencoder to decode is its finished sample rearranged, scaled and
shifted, element by element (scaling and shift factors, means and deviations of channels, packed patches): z[i] = gain[i] x0[place[i]] +
shift[i]. A few samples that the autoencoder is shown tell all three, a random one checks them. What it makes of the decoded medium is
one factor and one shift (pictures from -1..1 to 0..1), checked too. Between the two stands the autoencoder's own encoder; of what it
says of a medium the mode is taken. A pipeline without an autoencoder (of pixels) has the medium itself in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tropism.errors import PolicyError
from tropism.policies.record import first_tensor

Decode = Callable[[torch.Tensor], torch.Tensor]  # finished samples [B, ...] -> media [B, ...]
SIDES = ("latent_dist", "latents", "latent")  # where encoders put what they say


@dataclass(frozen=True)
class Rearranged:
    """z [B, n] = gain * x0 [B, n] [:, place] + shift, and back; float32."""

    place: torch.Tensor  # [n] int64, a permutation
    gain: torch.Tensor  # [n]
    shift: torch.Tensor  # [n]

    def back(self, z: torch.Tensor) -> torch.Tensor:
        """z [B, n] -> x0 [B, n]."""
        x0 = torch.empty_like(z)
        x0[:, self.place.to(z.device)] = (z - self.shift.to(z.device)) / self.gain.to(z.device)
        return x0


class Embedding:
    """The inverse of a pipeline's ``decode`` for samples of ``shape`` (without the batch). Raises PolicyError with the reason."""

    def __init__(self, pipe: Any, decode: Decode, shape: tuple[int, ...], device: torch.device) -> None:
        self.name, self.shape = type(pipe).__name__, shape
        some = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
        with torch.no_grad():
            self.coder, given, made = self._autoencoder(pipe, decode, some)
            medium = decode(some)
            self.seen, self.media = given.shape[1:], medium.shape[1:]  # what the autoencoder decodes, and what comes of it
            self.dtype = given.dtype
            self.learned = self._rearranged(decode, made, device)
            if self.coder is not None:
                self.made = first_tensor(made)
                self.factor, self.offset = self._finish(self.made, medium)
                if (found := self._encoded(medium).shape[1:]) != self.seen:
                    raise PolicyError(
                        f"{self.name}: its {type(self.coder).__name__} encodes to {list(found)}, but decodes {list(self.seen)}"
                    )

    def __call__(self, media: torch.Tensor) -> torch.Tensor:
        """media [B, ...] as decode gives them -> x0 [B, *shape] float32. Raises PolicyError for another size."""
        if media.shape[1:] != self.media:
            raise PolicyError(f"{self.name}: media of shape {list(media.shape[1:])}; this policy's are {list(self.media)}")
        with torch.no_grad():
            z = media if self.coder is None else self._encoded(media)
            return self.learned.back(z.reshape(len(media), -1).float()).view(len(media), *self.shape)

    def _encoded(self, media: torch.Tensor) -> torch.Tensor:
        """What the encoder says of media, [B, ...] as the decoder takes it."""
        assert self.coder is not None
        scaled = (media - self.offset) / self.factor
        scaled = scaled.movedim(1, 2) if self.made.ndim == media.ndim == 5 else scaled.reshape(-1, *self.made.shape[1:])
        with _upcast(self.coder):
            try:
                said = self.coder.encode(scaled.to(next(self.coder.parameters()).dtype))
            except RuntimeError as error:  # whatever an encoder raises for what its own decoder made
                raise PolicyError(f"{self.name}: its {type(self.coder).__name__} cannot encode what it decodes: {error}") from error
        found = next((getattr(said, side) for side in SIDES if hasattr(said, side)), said)
        return found.mode() if hasattr(found, "mode") and not isinstance(found, torch.Tensor) else first_tensor(found)

    def _autoencoder(self, pipe: Any, decode: Decode, some: torch.Tensor) -> tuple[Any, torch.Tensor, Any]:
        """The part that decodes (None where there is none), what it was given for the sample ``some``, and what it returned."""
        parts = {n: p for n, p in pipe.components.items() if isinstance(p, torch.nn.Module) and callable(getattr(p, "decode", None))}
        called = []
        for name, part in parts.items():
            with _decoding(part) as calls:
                medium = decode(some)
            called += [(name, part, *call) for call in calls]
        if not called:
            return None, medium if parts else decode(some), None
        if len(called) > 1:
            raise PolicyError(f"{self.name} decodes a sample in {len(called)} pieces; that cannot be turned round, register a generator")
        name, part, given, made = called[0]
        if not callable(getattr(part, "encode", None)):
            raise PolicyError(f"{self.name}: its {name} ({type(part).__name__}) has no encoder, so media cannot be learned from")
        return part, given, made

    def _rearranged(self, decode: Decode, made: Any, device: torch.device) -> Rearranged:
        """Gain, shift and place of every element that is decoded, from samples that tell them."""

        def shown(x0: torch.Tensor) -> torch.Tensor:
            if self.coder is None:
                return decode(x0.view(1, *self.shape)).flatten().float()
            with _decoding(self.coder, made) as calls:
                decode(x0.view(1, *self.shape))
            found: torch.Tensor = calls[0][0].flatten().float()
            return found

        count = int(torch.tensor(self.shape).prod())
        shift = shown(torch.zeros(count, device=device))
        if len(shift) != count:
            raise PolicyError(f"{self.name} decodes {len(shift)} numbers of a sample of {count}; that cannot be turned round")
        gain = 2 * (shown(torch.full((count,), 0.5, device=device)) - shift)
        number, place, unit = torch.arange(count, device=device), torch.zeros(count, dtype=torch.int64, device=device), 1
        base = 512 if self.dtype == torch.float32 else 8  # numbers that survive the precision they are decoded in
        while unit < count:
            digit = shown((number // unit % base) / base)
            place += unit * ((digit - shift) / gain * base).nan_to_num().round().long().clamp(0, base - 1)
            unit *= base
        learned = Rearranged(place.clamp(max=count - 1), gain, shift)
        trial = torch.rand(count, generator=torch.Generator().manual_seed(1)).to(device) - (0.5 if self.coder is not None else 0.0)
        expected = gain * trial[learned.place] + shift
        off = (shown(trial) - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
        if not off < (1e-3 if self.dtype == torch.float32 else 3e-2) or len(place.unique()) != count:
            raise PolicyError(
                f"{self.name}: what it decodes is no rearranged, scaled and shifted sample (off by {off:.2g}); register a generator"
            )
        return learned

    def _finish(self, made: torch.Tensor, medium: torch.Tensor) -> tuple[float, float]:
        """Factor and offset from what the autoencoder returns to the finished medium, before it is clipped to 0..1."""
        made = made.float().movedim(1, 2) if made.ndim == medium.ndim == 5 else made.float()
        if made.numel() != medium.numel():
            raise PolicyError(
                f"{self.name}: its media {list(medium.shape[1:])} are not what its autoencoder decodes, {list(made.shape[1:])}"
            )
        x, y = made.flatten().double(), medium.flatten().double()
        free = (y > 0.02) & (y < 0.98) if medium.ndim > 3 else torch.ones_like(y, dtype=torch.bool)
        middle = x[free].mean(), y[free].mean()
        factor = ((x[free] - middle[0]) * (y[free] - middle[1])).sum() / (x[free] - middle[0]).square().sum()
        offset = middle[1] - factor * middle[0]
        again = factor * x + offset
        off = ((again.clamp(0, 1) if medium.ndim > 3 else again) - y).abs().max()
        if not (off < 2e-2 and factor.abs() > 1e-3):
            raise PolicyError(
                f"{self.name}: its media are not what its autoencoder decodes (off by {off:.2g}); if it has a safety checker, leave that "
                "out with without: [safety_checker], or register a generator of your own"
            )
        return float(factor), float(offset)


@contextmanager
def _decoding(part: Any, answer: Any = None) -> Iterator[list[tuple[torch.Tensor, Any]]]:
    """Inside the block calls of ``part.decode`` are kept, (given, returned); with ``answer`` they return that and do not run."""
    own, original, calls = vars(part).get("decode"), part.decode, list[tuple[torch.Tensor, Any]]()

    def decode(*args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else next(value for value in kwargs.values() if isinstance(value, torch.Tensor))
        calls.append((given.detach(), original(*args, **kwargs) if answer is None else answer))
        return calls[-1][1]

    part.decode = decode
    try:
        yield calls
    finally:
        del part.decode
        if own is not None:
            part.decode = own


@contextmanager
def _upcast(part: Any) -> Iterator[None]:
    """Some autoencoders overflow in half precision and say so: these encode in float32."""
    dtype = next(part.parameters()).dtype
    upcast = dtype == torch.float16 and getattr(part.config, "force_upcast", False)
    if upcast:
        part.to(torch.float32)
    try:
        yield
    finally:
        if upcast:
            part.to(dtype)
