"""Step 4: the two scorers. ``python scorers.py emoji.npz OUT KIND`` with KIND ``conv`` (seed 1) or ``patch`` (seed 2).

Symmetric contrastive loss over batches of pictures of all groups with captions or tags; noise and blur among the augmentations, so that
imperfect samples are still read for what they show. Prints retrieval among the held-out tenth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from emoji import Emoji, augment, load
from fit import fit

from tropism_image.scorers import Scorer

STEPS, BATCH = {"conv": 2500, "patch": 1800}, 128


def worn(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Noise of random strength, and for half of the pictures a blur."""
    strength = 0.1 * torch.rand(len(image), 1, 1, 1, generator=generator)
    blurred = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2, mode="bilinear")
    mixed = torch.where(torch.rand(len(image), 1, 1, 1, generator=generator) < 0.5, image, blurred)
    return mixed + strength * torch.randn(image.shape, generator=generator)


@torch.no_grad()
def retrieval(scorer: Scorer, data: Emoji) -> tuple[float, float]:
    """Share of pictures whose own caption is the first, and among the first five, of all captions."""
    pictures = scorer.features(data.image.float() / 255)
    rank = (pictures @ F.normalize(scorer.text(data.caption), dim=1).T).argsort(1, descending=True)
    hit = rank == torch.arange(len(rank))[:, None]
    return hit[:, 0].float().mean().item(), hit[:, :5].any(1).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("kind", choices=("conv", "patch"))
    args = parser.parse_args()
    seed = {"conv": 1, "patch": 2}[args.kind]
    torch.manual_seed(seed)
    everything = load(args.data)
    data, scorer = everything.seen(), Scorer(args.kind)
    scale = torch.nn.Parameter(torch.tensor(2.7))
    holder = torch.nn.ParameterDict({"scale": scale})

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pick = torch.randperm(len(data.caption), generator=generator)[:BATCH].tolist()
        rng = np.random.default_rng(seed * 1_000_003 + step)
        texts = Emoji(data.image[pick], [data.caption[i] for i in pick], [data.tags[i] for i in pick], [], data.heldout).text(rng)
        image = worn(augment(data.image[pick].float() / 255, generator), generator)
        logits = scale.exp() * scorer.features(image) @ F.normalize(scorer.text(texts), dim=1).T
        own = torch.arange(BATCH)
        right = (logits.argmax(1) == own).float().mean().item()
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2, {"right": right}

    folder = args.out / f"scorer-{args.kind}"
    fit(
        {"scorer": scorer, "scale": holder},
        loss,
        folder=folder / "checkpoints",
        steps=STEPS[args.kind],
        lr=3e-3,
        seed=seed,
        weight_decay=1e-2,
    )
    scorer.eval().save_pretrained(folder / "scorer")
    for name, part in (("held-out", everything.subset(everything.heldout)), ("seen", data)):
        first, five = retrieval(scorer, part)
        print(f"{name} retrieval among {len(part.caption)}: first {100 * first:.1f} %, first five {100 * five:.1f} %")


if __name__ == "__main__":
    main()
