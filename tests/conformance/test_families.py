"""Every tiny pipeline builds, runs, and depends on what it must: the seed, the item, and its network on x and the time."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from tests.conformance.families import FAMILIES
from tests.conformance.family import Family


def sample(family: Family, pipe: DiffusionPipeline, item: int = 0, seed: int = 0) -> np.ndarray:
    """Four steps for one item, as an array of whatever shape the family's latents have."""
    generator = torch.Generator().manual_seed(seed)
    form = {"output_type": family.output} if "output_type" in inspect.signature(pipe.__call__).parameters else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # SD3's ControlNet pipeline draws its control picture's latents without the generator
        output = pipe(**family.call, **family.items[item], **form, num_inference_steps=4, generator=generator)
    return np.asarray(output[0], dtype=np.float64)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_family_runs_and_depends_on_seed_and_item(family: Family) -> None:
    first = sample(family, family.build())
    assert np.isfinite(first).all()
    assert first.std() > 1e-3

    pipe = family.build()
    assert np.array_equal(sample(family, pipe), first), "two builds, one seed"
    assert np.array_equal(sample(family, pipe), first), "a second call of one pipeline"
    assert difference(sample(family, pipe, seed=1), first) > 1e-2
    if any(family.items):
        assert difference(sample(family, pipe, item=1), first) > 2e-3


def changed(value: Any) -> Any:
    """Half of a time or of noisy data, in whatever container the network takes it."""
    if isinstance(value, list | tuple):
        return type(value)(changed(part) for part in value)
    return (value * 0.5).to(value.dtype) if torch.is_tensor(value) else type(value)(value * 0.5)


def tensors(output: Any) -> np.ndarray:
    """The prediction of a network as one flat array; some give a list with a tensor per image."""
    first = output[0]
    return np.concatenate([part.double().numpy().ravel() for part in (first if isinstance(first, list) else [first])])


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_its_network_depends_on_x_and_on_the_time(family: Family) -> None:
    pipe = family.build()
    network = next(pipe.components[name] for name in ("transformer", "unet", "prior") if name in pipe.components)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = network.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    sample(family, pipe)
    hook.remove()

    args, kwargs = calls[len(calls) // 2]  # not the first, where a time that grows toward the data is zero
    bound = inspect.signature(network.forward).bind(*args, **kwargs)
    data = next(iter(bound.signature.parameters))
    time = next(name for name in bound.arguments if name in ("timestep", "timesteps", "t"))
    with torch.no_grad():
        before = tensors(network(*bound.args, **bound.kwargs))
        for name in (data, time):
            other = inspect.signature(network.forward).bind(*args, **kwargs)
            other.arguments[name] = changed(other.arguments[name])
            assert difference(tensors(network(*other.args, **other.kwargs)), before) > 2e-3, name


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.parity])
def test_a_parity_scheduler_is_another_that_the_pipeline_accepts(name: str) -> None:
    family = FAMILIES[name]
    pipe = family.build()
    own = pipe.scheduler
    assert family.parity is not None
    pipe.scheduler = family.parity()
    assert type(pipe.scheduler) is not type(own) or dict(pipe.scheduler.config) != dict(own.config)
    assert np.isfinite(sample(family, pipe)).all()


def test_names_are_unique_and_their_samplers_known() -> None:
    assert all(name == family.name for name, family in FAMILIES.items())
    assert {family.sampler for family in FAMILIES.values()} <= {"ddim", "ode", "consistency"}
