"""Resamplers: their laws, their limits, and the indices of an independent implementation."""

from __future__ import annotations

import numpy
import pytest
import torch

from tropism.steering.resampling import RESAMPLERS, SNAP
from tropism.steering.weights import effective, log_mean, normalised

NAMES = sorted(RESAMPLERS)


def weights(prompts: int, particles: int, spread: float = 2.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(spread * torch.randn(prompts, particles, generator=generator, dtype=torch.float64), 1)


def uniforms(prompts: int, count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(prompts, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def counts(ancestors: torch.Tensor, particles: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(ancestors, particles).sum(1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("particles", "children"), [(5, 5), (16, 16), (4, 9), (8, 7)])
def test_expected_counts_are_n_times_the_weights(name, particles, children):
    runs = 20_000
    one = weights(1, particles)
    found = counts(RESAMPLERS[name](one.expand(runs, -1), uniforms(runs, children)), particles).double()
    error = (found.mean(0) - children * one[0]).abs()
    assert (error <= 4 * found.std(0) / runs**0.5 + 1e-9).all()
    assert (found.sum(1) == children).all()


@pytest.mark.parametrize("name", NAMES)
def test_counts_stay_near_n_times_the_weights(name):
    """Systematic and SSP round it up or down; residual never goes below; stratified is within two of it."""
    given = weights(3000, 12, seed=3)
    expected = given * 12
    found = counts(RESAMPLERS[name](given, uniforms(3000, 12)), 12)
    low, high = (expected - 1e-9).floor(), (expected + 1e-9).ceil()
    if name in ("systematic", "ssp"):
        assert ((found >= low) & (found <= high)).all()
    if name == "residual":
        assert (found >= low).all()
    if name == "stratified":
        assert ((found >= low - 1) & (found <= high + 1)).all()
    if name == "multinomial":
        assert (found < low - 1).any(), "the test could not fail"


def test_the_variance_is_the_smallest_for_systematic_and_the_largest_for_multinomial():
    """Of the resampled mean of numbers that have nothing to do with the weights, N = 16; the ratios of the published comparison."""
    generator = torch.Generator().manual_seed(5)
    given, values = weights(4000, 16, 2.0), torch.randn(4000, 16, generator=generator, dtype=torch.float64)
    exact = (given * values).sum(1)
    found = {}
    for name, resample in RESAMPLERS.items():
        mean = torch.stack([values.gather(1, resample(given, uniforms(4000, 16, seed))).mean(1) for seed in range(8)])
        found[name] = (mean - exact).square().mean().item()
    ratio = {name: value / found["multinomial"] for name, value in found.items()}
    assert 0.14 < ratio["systematic"] < 0.22 < ratio["stratified"] < 0.28 < ratio["residual"] < 0.40
    assert ratio["ssp"] < 0.28


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("particles", [1, 2, 3, 7, 49, 1000])
def test_equal_weights_change_nothing_but_for_multinomial(name, particles):
    even = torch.full((50, particles), 1 / particles, dtype=torch.float64)
    u = uniforms(50, particles)
    u[0], u[1] = 0.0, 1 - 2**-24  # the ends of the numbers that generators give
    found = RESAMPLERS[name](even, u)
    assert torch.equal(found, torch.arange(particles).expand(50, -1)) or (name == "multinomial" and particles > 1)


@pytest.mark.parametrize("name", NAMES)
def test_particles_without_weight_have_no_children(name):
    given = weights(500, 9)
    given[:, [0, 4, 8]] = 0
    given = given / given.sum(1, keepdim=True)
    u = uniforms(500, 9)
    u[0], u[1] = 0.0, 1 - 2**-24
    found = RESAMPLERS[name](given, u)
    assert not torch.isin(found, torch.tensor([0, 4, 8])).any()
    alone = torch.zeros(3, 9, dtype=torch.float64)
    alone[:, 3] = 1
    assert (RESAMPLERS[name](alone, u[:3]) == 3).all()


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_resampled_as_if_alone(name):
    given, u = weights(40, 6), uniforms(40, 6)
    together = RESAMPLERS[name](given, u)
    alone = torch.cat([RESAMPLERS[name](given[row : row + 1], u[row : row + 1]) for row in range(40)])
    assert torch.equal(together, alone)


def by_hand(name: str, weights: numpy.ndarray, u: numpy.ndarray) -> list[int]:
    """One prompt, one particle after the other, as the schemes are described; nothing here is shared with the tested code."""
    count, total, heights = len(u), 0.0, []
    for weight in weights:
        total += weight
        heights.append(total)

    def at(point: float, heights: list[float] = heights) -> int:
        return next((index for index, height in enumerate(heights) if point < height), len(heights) - 1)

    if name == "systematic":
        return [at((u[0] + number) / count) for number in range(count)]
    if name == "stratified":
        return [at((u[number] + number) / count) for number in range(count)]
    if name == "multinomial":
        return [at(u[number]) for number in range(count)]
    whole = [int(numpy.floor(count * weight)) for weight in weights]
    rest = [count * weight - floor for weight, floor in zip(weights, whole, strict=True)]
    certain = [index for index, times in enumerate(whole) for _ in range(times)]
    if name == "residual":
        ends = numpy.cumsum(rest) / sum(rest)
        return certain + [at(u[number], list(ends)) for number in range(count - len(certain))]
    # SSP by chances: of the unsettled i and the next k, one takes from the other what makes it whole or the other empty.
    i, j = 0, 1
    for step in range(len(weights) - 1):
        gain_i, gain_j = min(rest[j], 1 - rest[i]), min(rest[i], 1 - rest[j])
        chance_j = gain_i / (gain_i + gain_j) if gain_i + gain_j > 0 else 0.0
        up, down, gain = (j, i, gain_j) if u[step] < chance_j else (i, j, gain_i)
        rest[up], rest[down] = rest[up] + gain, rest[down] - gain
        if rest[up] > 1 - 1e-12:
            whole[up] += 1
            i, j = step + 2, down
        else:
            i, j = up, step + 2
    last = j if i == len(weights) else i
    whole[last] += int(rest[last] > 0.5 and sum(whole) < count)
    return [index for index, times in enumerate(whole) for _ in range(times)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("particles", [2, 5, 16, 64])
def test_indices_are_those_of_an_implementation_by_hand(name, particles):
    given, u = weights(200, particles, seed=particles), uniforms(200, particles, seed=particles + 1)
    found = RESAMPLERS[name](given, u)
    for row in range(200):
        assert found[row].tolist() == by_hand(name, given[row].numpy(), u[row].numpy()), row


@pytest.mark.parametrize("name", NAMES)
def test_indices_are_those_of_the_package_particles(name, monkeypatch):
    """The reference library of the field, where it is installed, given the same uniform numbers."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # so that its uniform numbers can be given to it
    oracle = pytest.importorskip("particles.resampling")
    given, u = weights(100, 16, seed=11).numpy(), uniforms(100, 16, seed=12).numpy()
    for row in range(100):
        drawn = iter([u[row]])

        def rand(count=1, drawn=drawn):
            return next(drawn)[: int(count)]

        monkeypatch.setattr(oracle.random, "rand", rand)
        monkeypatch.setattr(oracle, "uniform_spacings", lambda count, row=row: numpy.sort(u[row][:count]))
        mine = RESAMPLERS[name](torch.from_numpy(given[row : row + 1]), torch.from_numpy(u[row : row + 1]))[0].tolist()
        assert sorted(mine) == sorted(oracle.rs_funcs[name](given[row], M=16).tolist()), row


def test_effective_size_and_mean_of_weights():
    logw = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [0.0, -torch.inf, -torch.inf, -torch.inf], [3.0, 3.0, -torch.inf, -torch.inf], [1e4, 0.0, 0.0, 0.0]]
    )
    torch.testing.assert_close(effective(logw.double()), torch.tensor([4.0, 1.0, 2.0, 1.0], dtype=torch.float64))
    expected = [0.0, -numpy.log(4), 3 - numpy.log(2), 1e4 - numpy.log(4)]
    torch.testing.assert_close(log_mean(logw.double()), torch.tensor(expected, dtype=torch.float64))
    assert normalised(logw.double())[3].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_rounding_is_taken_back_only_where_it_is_rounding():
    """A weight that is a thousand times larger than rounding still counts."""
    given = torch.tensor([[0.5 - 1e-6, 0.5 + 1e-6]], dtype=torch.float64)
    assert SNAP < 1e-8
    u = torch.tensor([[1 - 1e-6, 0.0]], dtype=torch.float64)
    assert RESAMPLERS["systematic"](given, u).tolist() == [[1, 1]]
