"""Parts that wait on the CPU: who is on the device when, told from the moves that are made; and decoding in slices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.core.test_processes import QUIET, RECIPE
from tropism import api, plugins
from tropism.errors import RecipeError
from tropism.loop import Run
from tropism.policies.cache import Conditions
from tropism.policies.pipeline import PipelinePolicy, capture
from tropism.progress import Progress
from tropism.recipe import parse
from tropism.toy import ToyPolicy

ITEMS = [{"prompt": "a red apple"}, {"prompt": "a dog"}]
DEVICE = torch.device("cpu", 0)  # another name for the same memory, so that a move to it can be told from a move back


@pytest.fixture
def moves(monkeypatch) -> Iterator[list[tuple[str, str]]]:
    """(class, 'comes' or 'goes') of every module that is moved."""
    seen: list[tuple[str, str]] = []
    to = torch.nn.Module.to

    def told(self, *args, **kwargs):
        if args and isinstance(args[0], torch.device | str):
            seen.append((type(self).__name__, "comes" if torch.device(args[0]) == DEVICE else "goes"))
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", told)
    for name in (type(part) for part in tiny.stable_diffusion().components.values() if isinstance(part, torch.nn.Module)):
        if "to" in vars(name):
            monkeypatch.delattr(name, "to")
    yield seen


def policies() -> tuple[PipelinePolicy, PipelinePolicy]:
    plain, resting = (capture(tiny.stable_diffusion(), guidance_scale=3.0) for _ in range(2))
    for one, other in zip(plain.pipe.components.values(), resting.pipe.components.values(), strict=True):
        if isinstance(one, torch.nn.Module):
            other.load_state_dict(one.state_dict())
    return plain, resting


def at_work(moves: list[tuple[str, str]]) -> set[str]:
    """Who is on the device after all moves."""
    return {name for name, how in dict(moves).items() if how == "comes"}


def test_parts_come_when_they_are_called_and_go_when_a_phase_is_over(moves):
    plain, policy = policies()
    policy.offload(DEVICE)
    encoder, decoder, network = (type(part).__name__ for part in (policy.pipe.text_encoder, policy.pipe.vae, policy.pipe.unet))
    assert {name for name, how in moves if how == "goes"} >= {encoder, decoder}
    moves.clear()
    conditions = Conditions(policy)
    cond = conditions.encode(ITEMS)
    assert (encoder, "comes") in moves and at_work(moves) == set()
    assert all(torch.equal(a, b) for a, b in zip(cond["call0"].values(), plain.encode(ITEMS)["call0"].values(), strict=True))
    moves.clear()
    conditions.encode(ITEMS)
    assert moves == [], "cached: no part has to come"
    x0 = torch.randn(2, *policy.shape)
    with torch.no_grad():
        image = policy.decode(x0)["image"]
        assert torch.equal(image, plain.decode(x0)["image"])
    assert (decoder, "comes") in moves and at_work(moves) == set()
    moves.clear()
    with torch.no_grad():
        policy.decode(x0)
    assert (decoder, "comes") in moves and (encoder, "comes") not in moves, "a decoder does not wake the text encoder"
    assert network not in {name for name, _ in moves}


def test_where_gradients_flow_the_decoder_stays_for_the_backward_pass(moves):
    plain, policy = policies()
    policy.offload(DEVICE)
    with torch.no_grad():
        policy.decode(torch.zeros(2, *policy.shape))  # the text encoder, which comes once, has been
    moves.clear()
    decoder, gradients = type(policy.pipe.vae).__name__, []
    for each in (plain, policy):
        x0 = torch.randn(2, *policy.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        each.decode(x0)["image"].sum().backward()
        gradients.append(x0.grad)
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0
    assert at_work(moves) == {decoder}
    with torch.no_grad():
        policy.decode(x0.detach())
    assert at_work(moves) == set()


def test_a_run_decodes_in_slices(tmp_path, monkeypatch):
    sizes: list[int] = []
    original = ToyPolicy.decode

    def watched(self, x0):
        sizes.append(len(x0))
        return original(self, x0)

    monkeypatch.setattr(ToyPolicy, "decode", watched)
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    scores = []
    for name, change in (("whole", []), ("sliced", ["rollout.decode=3"])):
        sizes.clear()
        api.run(str(file), ["train.iterations=1", *change], folder=tmp_path / name, console=QUIET)
        assert set(sizes) == ({4, 1} if not change else {3, 1})
        scores.append((tmp_path / name / "samples/step-00000001/index.json").read_text())
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("train: {offload: true, ", r"train\.offload: 'toy/mixture' has no parts beside its network"),
        ("rollout: {decode: 5, ", r"rollout\.decode: 5 at once, but a batch has only 4"),
    ],
)
def test_options_without_sense_are_refused(change, told):
    key = change.partition("{")[0]
    with pytest.raises(RecipeError, match=told):
        Run(parse(RECIPE.replace(key + "{", change), "recipe"), Path(), plugins.silent(), plugins.installed()[1], Progress(QUIET))
