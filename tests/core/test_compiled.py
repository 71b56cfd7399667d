"""A compiled denoiser: one graph samples and learns, so that the first ratio is 1; another one is the reference; decoding needs neither."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from tests import tiny
from tests.core.test_processes import RECIPE, run, weights
from tropism import api
from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import DDIM
from tropism.errors import PolicyError
from tropism.optimizers.base import StepBatch, batches
from tropism.optimizers.policy_gradient import PolicyGradient
from tropism.policies.adapters import Lora, Trainable
from tropism.policies.compiled import compile_network
from tropism.policies.pipeline import capture
from tropism.testing import condition

ITEMS = [{"prompt": "a red apple"}, {"prompt": "a dog"}]


@pytest.fixture(autouse=True)
def _forgetful():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def learned(backend: str | None) -> dict[str, object]:
    """What a first update of a LoRA sees: samples, pictures, gradients, the ratio's error, the reference's log-probabilities."""
    policy = capture(tiny.stable_diffusion(), guidance_scale=3.0)
    network = policy.trainable()
    torch.manual_seed(0)
    trainable = Trainable(network, Lora(rank=2, targets=("to_q", "to_v")))
    for parameter in trainable.parameters.values():
        parameter.data.normal_(0, 0.1)
    if backend:
        compile_network(network, backend)
    rollout = collect(policy, condition(policy, ITEMS), DDIM(1.0), 3)
    with trainable.reference():
        reference = collect(policy, condition(policy, ITEMS), DDIM(1.0), 3)
    rollout.advantage = torch.tensor([1.0, -0.5])
    error = 0.0
    for batch in batches(rollout, DDIM(1.0), 1, 2)[0]:
        assert isinstance(batch, StepBatch)
        loss, numbers = PolicyGradient().loss(policy, batch)
        (loss * batch.share).backward()
        error = max(error, numbers["ratio_error"].item())
    assert not rollout.x0.requires_grad and not rollout.steps.logp.requires_grad
    with torch.no_grad():
        image = policy.decode(rollout.x0)["image"]
    gradients = torch.cat([parameter.grad.flatten() for parameter in trainable.parameters.values()])
    return {"x0": rollout.x0, "image": image, "gradients": gradients, "error": error, "reference": reference.x0}


def same(one: dict[str, object], other: dict[str, object], rtol: float) -> None:
    for name in ("x0", "image", "gradients", "reference"):
        torch.testing.assert_close(other[name], one[name], rtol=rtol, atol=rtol * float(one[name].abs().max()), msg=name)


def test_one_graph_samples_and_learns_and_another_is_the_reference():
    plain = learned(None)
    assert counters["stats"]["unique_graphs"] == 0
    found = learned("aot_eager")
    assert found["error"] == 0
    same(plain, found, 1e-4)
    assert not torch.allclose(found["x0"], found["reference"])
    assert sum(counters["graph_break"].values()) == 0
    assert counters["stats"]["unique_graphs"] == 2, "with the adapter and without; sampling and learning share theirs"


def test_a_compiled_run_is_the_plain_one_and_what_is_sampled_from_it_is_not_compiled(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    for name, change in (("plain", []), ("compiled", ["train.compile=eager"])):
        assert run(str(file), tmp_path / name, "train.iterations=2", *change) == "finished"
    assert torch.equal(weights(tmp_path / "plain", 2), weights(tmp_path / "compiled", 2))
    assert counters["stats"]["unique_graphs"] > 0
    assert "forward" not in vars(api.trained(tmp_path / "compiled").policy.trainable())


@pytest.mark.skipif(not any(shutil.which(name) for name in ("g++", "clang++")), reason="inductor on the CPU needs a C++ compiler")
def test_inductor_keeps_the_first_ratio_at_one():
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 4))
    x = torch.randn(3, 4)
    plain = network(x).detach()
    compile_network(network, "inductor")
    with torch.no_grad():
        sampled = network(x)
    again = network(x)
    assert torch.equal(sampled, again.detach()) and again.requires_grad and not sampled.requires_grad
    torch.testing.assert_close(sampled, plain)


def test_without_a_compiler_inductor_is_refused(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(PolicyError, match=r"train\.compile=inductor needs a C\+\+ compiler"):
        compile_network(torch.nn.Linear(1, 1), "inductor")
