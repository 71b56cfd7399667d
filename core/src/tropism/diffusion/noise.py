"""Noise that belongs to samples: each sample draws from its own CPU generator.

So a sample depends on its seed alone: not on the batch size, the device or the number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_MASK = (1 << 64) - 1


def sample_seed(run_seed: int, sample: int) -> int:
    """A well-mixed 63-bit seed for sample number ``sample`` of a run (splitmix64)."""
    z = (run_seed * 0x9E3779B97F4A7C15 + sample + 0x632BE59BD9B4E019) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 1


class Draw:
    """Standard normal noise for a batch: ``draw(shape)`` gives [B, *shape] float32 on ``device``, each row from its sample's stream."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.device = device

    def __call__(self, shape: Sequence[int]) -> torch.Tensor:
        noise = torch.empty((len(self.generators), *shape))
        for row, generator in zip(noise, self.generators, strict=True):
            torch.randn(shape, generator=generator, out=row)
        return noise.to(self.device, non_blocking=True)

    def uniform(self, shape: Sequence[int] = ()) -> torch.Tensor:
        """Numbers in [0, 1), [B, *shape] float32; one for each row as it stands."""
        return torch.stack([torch.rand(tuple(shape), generator=generator) for generator in self.generators]).to(self.device)

    def take(self, rows: Sequence[int]) -> Draw:
        """The streams of rows alone, going on from where they are; those of other rows stand still meanwhile."""
        taken = Draw([], self.device)
        taken.generators = [self.generators[row] for row in rows]
        return taken
