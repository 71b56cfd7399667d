"""The two networks of the shipped generator: one looks at the depth picture, once; the other is the velocity of a rectified flow."""

from __future__ import annotations

import math

import torch
from torch import nn

LATENT, WIDTH, COND, BLOCKS = 512, 320, 192, 6


class Eye(nn.Module):
    """Depth pictures [B, 2, 32, 32] -> [B, COND]. Row 0 of ``nothing`` stands for no picture, in classifier-free guidance."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(2, 24, 4, 2, 1), nn.SiLU(), nn.Conv2d(24, 48, 4, 2, 1), nn.SiLU(), nn.Conv2d(48, 96, 4, 2, 1), nn.SiLU(), nn.Flatten()
        )
        self.tell = nn.Linear(96 * 4 * 4, COND)
        self.nothing = nn.Parameter(torch.zeros(1, COND))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        told: torch.Tensor = self.tell(self.look(picture))
        return told


class Block(nn.Module):
    """A residual perceptron whose norm is shifted and scaled, and its output gated, by the condition (AdaLN-zero, arXiv 2212.09748)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulate = nn.Linear(COND, 3 * WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, h: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulate(cond).chunk(3, -1)
        out: torch.Tensor = h + gate * self.down(nn.functional.silu(self.up(self.norm(h) * (1 + scale) + shift)))
        return out


class Velocity(nn.Module):
    """x [B, LATENT] at noise level sigma [B] with condition [B, COND] -> velocity eps - x0, [B, LATENT]."""

    def __init__(self) -> None:
        super().__init__()
        self.when = nn.Sequential(nn.Linear(64, COND), nn.SiLU(), nn.Linear(COND, COND))
        self.begin = nn.Linear(LATENT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.end = nn.Linear(WIDTH, LATENT)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        rate = torch.exp(torch.arange(32, device=x.device) * (-math.log(1000.0) / 31)) * 1000
        angle = sigma[:, None] * rate
        both = nn.functional.silu(cond + self.when(torch.cat([angle.cos(), angle.sin()], 1)))
        h = self.begin(x)
        for block in self.blocks:
            h = block(h, both)
        out: torch.Tensor = self.end(self.norm(h))
        return out
