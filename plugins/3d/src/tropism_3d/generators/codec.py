"""Fields as short vectors, by principal components in two stages: of blocks of 8^3, then of all the blocks of a shape together.

    field [N^3] -> 64 blocks of 512 -> 64 x 48 (one basis for all blocks) -> 512 coefficients -> divided by the root of their deviations

A basis of whole fields would take 33 MB; this one takes 3. Its transpose is the decoder: a matrix product, differentiable, no network.
"""

from __future__ import annotations

import torch

from tropism_3d.fields import N

BLOCK = 8
SIDE = N // BLOCK
SPREAD = 2.0  # the deviation of the first coefficient; the others' fall as the root of their components' deviations


class Codec(torch.nn.Module):
    """Buffers: block [512, k] and block_mean [512]; whole [64 k, K] and whole_mean [64 k]; scale [K], by which coefficients are divided."""

    def __init__(self, inner: int = 48, outer: int = 512) -> None:
        super().__init__()
        self.register_buffer("block", torch.zeros(BLOCK**3, inner))
        self.register_buffer("block_mean", torch.zeros(BLOCK**3))
        self.register_buffer("whole", torch.zeros(SIDE**3 * inner, outer))
        self.register_buffer("whole_mean", torch.zeros(SIDE**3 * inner))
        self.register_buffer("scale", torch.ones(outer))

    def encode(self, field: torch.Tensor) -> torch.Tensor:
        """Fields [B, N, N, N] -> [B, K] float32."""
        return self.shorten(self.blocks(field)) / self.get_buffer("scale")

    def blocks(self, field: torch.Tensor) -> torch.Tensor:
        """The first stage: [B, 64 k]."""
        cut = field.reshape(-1, SIDE, BLOCK, SIDE, BLOCK, SIDE, BLOCK).permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, SIDE**3, BLOCK**3)
        return ((cut - self.get_buffer("block_mean")) @ self.get_buffer("block")).flatten(1)

    def shorten(self, blocks: torch.Tensor) -> torch.Tensor:
        """The second stage, not yet scaled: [B, K]."""
        return (blocks - self.get_buffer("whole_mean")) @ self.get_buffer("whole")

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """[B, K] -> fields [B, N, N, N], about -1 to 1; differentiable."""
        blocks = (x0 * self.get_buffer("scale")) @ self.get_buffer("whole").T + self.get_buffer("whole_mean")
        cut = blocks.reshape(len(x0), SIDE**3, -1) @ self.get_buffer("block").T + self.get_buffer("block_mean")
        return cut.reshape(-1, SIDE, SIDE, SIDE, BLOCK, BLOCK, BLOCK).permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, N, N, N)
