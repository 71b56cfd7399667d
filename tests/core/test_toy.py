"""The toy world's exact answers are exact."""

from __future__ import annotations

import pytest
import torch

from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import DDIM
from tropism.diffusion.schedules import split
from tropism.errors import PolicyError
from tropism.testing import condition
from tropism.toy import Near, PointView, ToyPolicy, exact_ends, exact_noise, posterior_mean
from tropism.types import Level

CENTRES, WIDTH = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, -2.0]], dtype=torch.float64), 0.3


def test_the_noise_is_minus_sigma_times_the_score_of_the_noised_mixture():
    x = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    alpha = torch.linspace(0.1, 0.95, 7, dtype=torch.float64)
    sigma = (1 - alpha**2).sqrt()
    spread = ((alpha * WIDTH) ** 2 + sigma**2).sqrt()
    components = torch.distributions.Normal(alpha[:, None, None] * CENTRES, spread[:, None, None])
    density = components.log_prob(x[:, None]).sum(-1).logsumexp(1)
    (score,) = torch.autograd.grad(density.sum(), x)
    torch.testing.assert_close(exact_noise(x.detach(), alpha, sigma, CENTRES, WIDTH), -sigma[:, None] * score)


def test_the_posterior_mean_is_that_of_many_samples():
    generator = torch.Generator().manual_seed(0)
    count = 400_000
    x0 = CENTRES[torch.randint(3, (count,), generator=generator)] + WIDTH * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    x = 0.6 * x0 + 0.8 * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    here = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    near = (x - here).norm(dim=1) < 0.1
    one = torch.ones(1, dtype=torch.float64)
    expected = posterior_mean(here, Level(one, 0.6 * one, 0.8 * one), CENTRES, WIDTH)[0]
    assert (x0[near].mean(0) - expected).norm() < 4 * (x0[near].std() / near.sum() ** 0.5)


def test_sampling_the_base_model_gives_the_mixture():
    policy = ToyPolicy()
    items = [{"prompt": "p"}] * 2000
    x0 = collect(policy, condition(policy, items), DDIM(1.0), 50).x0
    distance, mode = torch.cdist(x0, policy.network.centres).min(1)
    assert (distance < 1).float().mean() > 0.99
    share = torch.bincount(mode, minlength=8) / 2000
    assert (share - 1 / 8).abs().max() < 0.04
    assert Near()(x0).max() > -0.3 > Near()(x0).mean()


@pytest.mark.parametrize("parametrization", ["epsilon", "v_prediction", "sample", "flow"])
def test_every_parametrization_says_the_same_of_a_point(parametrization):
    """The predicted x0 and noise make the point again, and are those of float64; at both ends of a flow they are finite."""
    policy = ToyPolicy(parametrization=parametrization)
    levels = policy.schedule.levels(6)
    inner = levels[1:5]
    x = torch.randn(4, 2)
    x0, noise = split(policy.predict(x, inner, {}), x, inner, parametrization)
    torch.testing.assert_close(inner.alpha[:, None] * x0 + inner.sigma[:, None] * noise, x, rtol=1e-4, atol=1e-4)
    double = (value.double() for value in (x, inner.alpha, inner.sigma, policy.network.centres))
    exact = exact_ends(*double, 0.2)
    torch.testing.assert_close(x0.double(), exact[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(noise.double(), exact[1], rtol=1e-3, atol=1e-3)
    if parametrization == "flow":
        assert levels.alpha[0] == 0 and policy.predict(x[:1], levels[0].expand(1), {}).isfinite().all()


def test_an_unknown_parametrization_is_refused():
    with pytest.raises(PolicyError, match="parametrization 'score'; the toy has epsilon, v_prediction, sample, flow"):
        ToyPolicy(parametrization="score")


def test_building_the_toy_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    ToyPolicy(seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_point_is_drawn_where_it_is(tmp_path):
    name = PointView().save(torch.tensor([1.5, -2.0]), tmp_path, "0001")
    assert 'cx="1.500" cy="2.000"' in PointView().html(tmp_path / name)
