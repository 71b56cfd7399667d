"""Particle Gibbs: sweeps leave the tilted law of an enumerated text as it is, and reach it from elsewhere."""

from __future__ import annotations

import pytest
import torch

from tests.steering.problems import text
from tests.steering.toys import on_toy
from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.samplers import DDIM
from tropism.errors import SteeringError
from tropism.plugins import manager
from tropism.steering.gibbs import Gibbs, conditional, traced
from tropism.steering.steered import Steered
from tropism.toy_chains import task

RUNS, LAM = 4000, 3.0


def error(found: Steered) -> float:
    """Total variation between the kept texts of all runs and the tilted law."""
    chain = text()
    kept = found.x0[found.rows()]
    share = torch.bincount(chain.number(kept), minlength=len(chain.states)).double() / len(kept)
    target = chain.base() * torch.exp(LAM * chain.reward(chain.states))
    return float((share - target / target.sum()).abs().sum() / 2)


def floor(runs: int) -> float:
    """The same, expected of as many independent draws from the law itself."""
    chain = text()
    target = chain.base() * torch.exp(LAM * chain.reward(chain.states))
    p = target / target.sum()
    return float((2 * p * (1 - p) / (torch.pi * runs)).sqrt().sum() / 2)


def test_two_particles_reach_the_tilted_law_by_sweeps():
    """One run of two particles is far from it; sweeps of the same two are as near as independent draws would be."""
    schedule = {"start": 0.0, "end": 1.0, "every": 0.0}
    errors = [
        error(Gibbs(particles=2, sweeps=sweeps, lam=LAM, schedule=schedule).run(task(text(), text().reward, RUNS, 2))) for sweeps in (1, 20)
    ]
    assert errors[0] > 2 * floor(RUNS)
    assert errors[1] < 1.3 * floor(RUNS)


def test_a_sweep_leaves_the_tilted_law_as_it_is():
    """Weak tilt, many particles: the first sweep is in the law already, and the second must stay there, resampled at every point."""
    schedule = {"start": 0.0, "end": 1.0, "every": 0.0, "ess": 1.0}
    found = Gibbs(particles=16, sweeps=3, lam=LAM, schedule=schedule).run(task(text(), text().reward, RUNS, 16))
    assert error(found) < 1.3 * floor(RUNS)
    assert found.forwards == RUNS * 16 * 8 * 3 and found.lam.eq(LAM).all()
    ratio = (found.log_z - float(text().twists(LAM)[0][-1].log())).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / RUNS**0.5  # of the sweep without a kept path


def test_the_kept_path_is_particle_0_and_stays_if_it_is_chosen():
    one = Gibbs(particles=4, sweeps=1, lam=LAM).run(task(text(), text().reward, 50, 4))
    two = Gibbs(particles=4, sweeps=2, lam=LAM).run(task(text(), text().reward, 50, 4))
    assert torch.equal(two.x0.reshape(50, 4, -1)[:, 0], one.x0[one.rows()])


def test_a_path_is_traced_back_through_its_ancestors():
    states = [{"x": torch.arange(6) + 10 * point, "row": torch.arange(6)} for point in range(4)]
    ancestors = {1: torch.tensor([[0, 0, 1], [0, 2, 2]]), 2: torch.tensor([[0, 2, 2], [0, 1, 0]])}
    path = traced(states, ancestors, torch.tensor([[1], [1]]), 3)
    assert path[3]["x"].tolist() == [31, 34]
    assert path[2]["x"].tolist() == [22, 24]
    assert path[1]["x"].tolist() == [11, 15]
    assert path[0]["x"].tolist() == [1, 5]


def test_the_kept_particle_always_has_itself_as_its_first_child():
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64).repeat(2000, 1)
    ancestors = conditional(weights, torch.rand(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert (ancestors[:, 0] == 0).all() and (ancestors[::2, 1:] == 1).all()
    share = torch.bincount(ancestors[1::2, 1:].flatten(), minlength=3) / 4000
    assert torch.allclose(share, torch.tensor([0.2, 0.3, 0.5]), atol=0.03)


def test_latents_are_swept_too_and_a_sampler_without_noise_is_refused():
    found = on_toy(Gibbs(particles=4, sweeps=3, lam=2.0), sampler=DDIM())
    assert found.forwards == 3 * 4 * 8 * 3 and found.chosen.shape == (3, 1)
    assert torch.equal(found.x0, torch.cat([on_toy(Gibbs(particles=4, sweeps=3, lam=2.0), 1, first=number).x0 for number in range(3)]))
    with pytest.raises(SteeringError, match="'Gibbs' copies particles"):
        on_toy(Gibbs(), sampler=Ode())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"particles": 1}, "particles: 1; expected 2"),
        ({"sweeps": 0}, "sweeps: 0; expected 1"),
        ({"lam": {"ess": 0.5}}, "by effective size every sweep would have another target"),
        ({"potential": "diff"}, "potential: 'diff' is not known"),
    ],
)
def test_arguments_are_refused_by_name(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        manager()[1].load("steering", "gibbs")(**arguments)
