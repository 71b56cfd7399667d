"""Statistics among siblings, the samples of one prompt: what group advantages and group-normalised rewards are made of."""

from __future__ import annotations

import torch


def centre(values: torch.Tensor, group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(each value minus the mean of its group, the variance of its group), [B] float64. values, group: [B].

    In float32 the mean of equal values is not quite that value; here what is equal is 0 exactly.
    """
    index, size, exact = _count(values, group)
    centred = exact - (torch.zeros_like(size).index_add_(0, index, exact) / size)[index]
    return centred, (torch.zeros_like(size).index_add_(0, index, centred**2) / size)[index]


def z_score(values: torch.Tensor, group: torch.Tensor, least: float = 1e-4) -> torch.Tensor:
    """(value - group mean) / (group deviation + least), [B] float32."""
    centred, variance = centre(values, group)
    return (centred / (variance.sqrt() + least)).float()


def equal_share(values: torch.Tensor, group: torch.Tensor) -> float:
    """The share of groups whose values are all equal: there is nothing in them to learn from."""
    index, size, _ = _count(values, group)
    unequal = torch.zeros_like(size).index_add_(0, index, (centre(values, group)[1] > 0).double())
    return (unequal == 0).float().mean().item()


def _count(values: torch.Tensor, group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(the number of each value's group [B], the groups' sizes [G], the values in float64)."""
    _, index = group.cpu().unique(return_inverse=True)
    exact = values.double()
    size = torch.zeros(int(index.max()) + 1, dtype=torch.float64).index_add_(0, index, torch.ones_like(exact))
    return index, size, exact
