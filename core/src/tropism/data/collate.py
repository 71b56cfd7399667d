"""Batches of a data set into what optimizers learn from: latents with the policy's conditions."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tropism.data.batches import DecodedLabels, DecodedPairs
from tropism.diffusion.noise import sample_seed
from tropism.errors import DataError
from tropism.types import Condition, Item, Labelled, Pairs, Tree

Encode = Callable[[list[Item]], Tree]  # a policy's encode, or a cache before it
Latents = Callable[[torch.Tensor], torch.Tensor]  # media [P, ...] -> finished samples x0 [P, ...], e.g. an autoencoder's encoder


def pairs(batch: DecodedPairs, encode: Encode, latents: Latents, seed: int, segment_axis: int | None = None) -> Pairs:
    """Pairs of latents with the policy's conditions.

    seed: of the run; each pair's own seed follows from it and from the pair's number in the stream, so that it depends neither on the
    batch size nor on where a run was taken up. segment_axis: the axis of x0 [P, ...] along which segments lie (2 for [P, C, F, H, W]);
    None leaves segments out. Raises DataError where the segments do not fit that axis.
    """
    winner, loser = (_finished(latents, media) for media in (batch.winner, batch.loser))
    segments = None
    if batch.segments is not None and segment_axis is not None:
        length, count = winner.shape[segment_axis], batch.segments.shape[1]
        if length % count:
            raise DataError(
                f"{count} segments do not divide the {length} latent frames of axis {segment_axis}; judge as many, or a divisor"
            )
        shape = [length if axis == segment_axis else 1 for axis in range(winner.ndim)]
        shape[0] = len(winner)
        segments = batch.segments.float().repeat_interleave(length // count, 1).view(shape)
    cond = _conditions(batch.items, encode, seed, batch.number)
    return Pairs(cond=cond, winner=winner, loser=loser, weight=batch.weight.float(), chance=batch.chance.float(), segments=segments)


def labelled(batch: DecodedLabels, encode: Encode, latents: Latents, seed: int) -> Labelled:
    """Labelled latents with the policy's conditions; a weight of 0 to 1 makes its label weaker. seed: as of :func:`pairs`."""
    if not ((batch.weight >= 0) & (batch.weight <= 1)).all():
        raise DataError(f"labels have weights {batch.weight.tolist()}; expected 0 to 1, since a weight makes a label a weaker one")
    cond = _conditions(batch.items, encode, seed, batch.number)
    return Labelled(cond=cond, x0=_finished(latents, batch.media), label=batch.label * batch.weight)


def _finished(latents: Latents, media: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return latents(media).float()


def _conditions(items: list[Item], encode: Encode, seed: int, number: list[int]) -> Condition:
    seeds = torch.tensor([sample_seed(seed, one) for one in number], dtype=torch.int64)
    return Condition(items=items, encoded=encode(items), seed=seeds, group=torch.tensor(number))
