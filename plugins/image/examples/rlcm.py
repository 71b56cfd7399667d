"""RLCM (arXiv 2404.03673) written out: a loop like that of ``tropism run`` with the core's parts alone.

    python plugins/image/examples/rlcm.py --iterations 30

It prints the mean JPEG size (kB) of each iteration's samples, which should fall, and saves ``rlcm.png``: the same prompts and seeds
before (top) and after (bottom).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from tropism.credit import Batch
from tropism.data.prompts import Order
from tropism.diffusion.noise import sample_seed
from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import Consistency
from tropism.optimizers.base import batches
from tropism.optimizers.policy_gradient import PolicyGradient
from tropism.policies.adapters import Lora, Trainable
from tropism.policy import Policy
from tropism.types import Condition, Item, Rollout
from tropism_image.captions import EmojiCaptions
from tropism_image.generators.emoji import consistency
from tropism_image.rewards.jpeg import JpegSize
from tropism_image.view import ImageView

STEPS, SAMPLER = 4, Consistency()


def sample(policy: Policy, items: Sequence[Item], first: int) -> Rollout:
    """A rollout with its pictures; ``first`` numbers its first sample, and the noise of a sample follows from its number alone."""
    seeds = torch.tensor([sample_seed(0, first + index) for index in range(len(items))])
    cond = Condition(items=list(items), encoded=policy.encode(list(items)), seed=seeds, group=torch.arange(len(items)))
    rollout = collect(policy, cond, SAMPLER, STEPS)
    with torch.no_grad():
        rollout.media = policy.decode(rollout.x0)
    return rollout


def align(policy: Policy, items: Sequence[Item], iterations: int, samples: int = 64, lr: float = 1e-3) -> list[float]:
    """Turn the policy toward small files. Returns the mean size of each iteration's samples."""
    learning = list(Trainable(policy.trainable(), Lora(rank=16, alpha=32)).parameters.values())
    torch_optimizer = torch.optim.AdamW(learning, lr=lr, weight_decay=1e-4)
    reward, credit, optimizer, order = JpegSize(), Batch(), PolicyGradient(clip=1e-4, advantage_clip=10), Order(len(items), 0)
    sizes: list[float] = []
    for iteration in range(iterations):
        chosen = [items[index] for index in order.take(iteration * samples, samples)]
        rollout = sample(policy, chosen, iteration * samples)
        size = reward(rollout.media["image"])
        rollout.reward = -size
        rollout.advantage = credit(rollout)
        for update in batches(rollout, SAMPLER, updates=1, micro=samples):
            for batch in update:
                loss, _ = optimizer.loss(policy, batch)
                (loss * batch.share).backward()
            torch.nn.utils.clip_grad_norm_(learning, 5.0)
            torch_optimizer.step()
            torch_optimizer.zero_grad(set_to_none=True)
        sizes.append(size.mean().item())
        print(f"{iteration + 1:>4}  {sizes[-1]:.3f} kB", flush=True)
    return sizes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=30)
    given, data, model = parser.parse_args(), EmojiCaptions(), consistency()
    shown = data.heldout[:8]
    before = sample(model, shown, -8).media["image"]
    align(model, data.train, given.iterations)
    after = sample(model, shown, -8).media["image"]
    grid = torch.stack([before, after]).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    ImageView().save(grid, Path(), "rlcm")
