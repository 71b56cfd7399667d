"""Noise belongs to samples."""

from __future__ import annotations

import pytest
import torch

from tropism.diffusion.noise import Draw, sample_seed

CPU = torch.device("cpu")


def test_a_row_depends_on_its_seed_alone():
    seeds = [11, 12, 13, 14, 15]
    together, alone, turned = Draw(seeds, CPU), Draw([13], CPU), Draw(seeds[::-1], CPU)
    for shape in ((4, 8, 8), (2,), (3, 5)):
        rows, row, back = together(shape), alone(shape), turned(shape)
        assert torch.equal(rows[2], row[0])
        assert torch.equal(rows, back.flip(0))


def test_draws_are_successive_and_match_torch():
    draw, generator = Draw([5], CPU), torch.Generator().manual_seed(5)
    for _ in range(3):
        assert torch.equal(draw((2, 3))[0], torch.randn(2, 3, generator=generator))


def test_the_global_random_state_is_neither_used_nor_moved():
    before = torch.get_rng_state()
    first = Draw([1], CPU)((4,))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(Draw([1], CPU)((4,)), first)


def test_noise_is_standard_normal():
    noise = Draw([sample_seed(0, index) for index in range(2000)], CPU)((16,))
    assert abs(noise.mean().item()) < 4 / 32000**0.5
    assert abs(noise.std().item() - 1) < 4 / (2 * 32000) ** 0.5
    correlation = (noise[:-1] * noise[1:]).mean().item()
    assert abs(correlation) < 4 / 32000**0.5, "neighbouring samples must not resemble each other"


def test_sample_seeds_are_63_bit_distinct_and_fixed_for_good():
    seeds = [sample_seed(run, sample) for run in (0, 1, 2, 1_000_003) for sample in range(2000)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Old runs must stay reproducible: these numbers may never change.
    assert [sample_seed(0, 0), sample_seed(0, 1), sample_seed(7, 3)] == FIXED


@pytest.mark.parametrize("bit", [0, 1, 31, 62])
def test_every_bit_of_a_seed_is_a_fair_coin(bit):
    ones = sum(sample_seed(3, sample) >> bit & 1 for sample in range(4000))
    assert abs(ones - 2000) < 4 * 1000**0.5


FIXED = [3952864364094478165, 4018714269715226349, 4535110235989772535]
