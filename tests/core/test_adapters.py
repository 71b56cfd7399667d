"""What learns, the base model behind it, and the average of the weights."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tropism import checkpoint
from tropism.errors import PolicyError
from tropism.policies.adapters import Lora, Trainable

LORA = Lora(rank=2, alpha=4.0, targets=("to_q", "to_k", "to_v", "to_out.0"))


def outputs(network) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        return network(
            torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([5.0, 700.0]), torch.randn(2, 5, tiny.WIDTH, generator=generator)
        ).sample


def learn(trainable: Trainable, scale: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in trainable.parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_reference_is_the_base_model_to_the_bit_and_gives_the_weights_back(lora):
    network = tiny.unet().eval()
    base = outputs(network)
    trainable = Trainable(network, lora)
    if lora:
        assert torch.equal(outputs(network), base), "a fresh adapter changes nothing"
    learn(trainable)
    learned = outputs(network)
    assert not torch.allclose(learned, base)
    for _ in range(2):
        with trainable.reference():
            assert torch.equal(outputs(network), base)
        assert torch.equal(outputs(network), learned)
    with pytest.raises(ZeroDivisionError), trainable.reference():
        _ = 1 / 0
    assert torch.equal(outputs(network), learned), "also after an error"
    assert all(p.requires_grad for p in trainable.parameters.values())


def test_the_base_of_a_full_fine_tune_does_not_learn_along():
    network = tiny.unet()
    kept = {name: p.detach().clone() for name, p in network.named_parameters()}
    trainable = Trainable(network, None)
    assert set(trainable.parameters) == set(kept)
    learn(trainable)
    assert all(torch.equal(trainable.base[name], kept[name]) for name in kept)
    assert not torch.equal(trainable.parameters["conv_in.weight"], kept["conv_in.weight"])


def test_lora_trains_its_factors_alone_and_keeps_no_second_copy():
    trainable = Trainable(tiny.unet(), LORA)
    assert trainable.parameters and all("lora_" in name for name in trainable.parameters)
    assert trainable.base == {}
    a, b = ([p for name, p in trainable.parameters.items() if f"lora_{end}" in name] for end in "AB")
    assert all(p.shape[0] == 2 for p in a) and all(p.shape[1] == 2 and (p == 0).all() for p in b)


def test_learning_weights_are_float32_whatever_the_network_is():
    trainable = Trainable(tiny.unet().to(torch.bfloat16), LORA)
    assert all(p.dtype == torch.float32 for p in trainable.parameters.values())


def test_lora_targets_that_match_nothing_name_the_candidates():
    with pytest.raises(PolicyError, match=r"LoRA targets \['to_query'\] match no module of UNet2DConditionModel.*conv_in.*to_q"):
        Trainable(tiny.unet(), Lora(targets=("to_q", "to_query")))


def test_the_average_follows_its_recursion():
    trainable = Trainable(tiny.unet(), LORA, ema=0.9)
    expected = {name: p.detach().double().clone() for name, p in trainable.parameters.items()}
    for step in range(5):
        learn(trainable, 0.1 * (step + 1))
        trainable.update_average()
        for name, p in trainable.parameters.items():
            expected[name] = 0.9 * expected[name] + 0.1 * p.detach().double()
    for name, value in expected.items():
        torch.testing.assert_close(trainable.average[name].double(), value, rtol=1e-5, atol=1e-6)


def test_averaged_swaps_the_weights_and_gives_them_back():
    trainable = Trainable(tiny.unet().eval(), LORA, ema=0.9)
    before = outputs(trainable.module)
    learn(trainable)
    learned = outputs(trainable.module)
    with trainable.averaged():
        assert torch.equal(outputs(trainable.module), before), "the average has not been updated yet"
    assert torch.equal(outputs(trainable.module), learned)
    plain = Trainable(tiny.unet().eval(), LORA)
    learn(plain)
    present = outputs(plain.module)
    plain.update_average()
    with plain.averaged():
        assert torch.equal(outputs(plain.module), present), "without EMA the present weights are the average"


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_a_state_goes_through_a_checkpoint_to_another_network(tmp_path, lora):
    def made() -> Trainable:
        torch.manual_seed(5)
        return Trainable(tiny.unet().eval(), lora, ema=0.5)

    first, second = made(), made()
    learn(first)
    first.update_average()
    second.load_state_dict(checkpoint.load(checkpoint.save(tmp_path / "s", first.state_dict())))
    assert torch.equal(outputs(first.module), outputs(second.module))
    assert all(torch.equal(first.average[name], second.average[name]) for name in first.average)
    learn(first)
    assert not torch.equal(outputs(first.module), outputs(second.module)), "the two share no memory"


def test_weights_of_another_adapter_are_refused():
    state = Trainable(tiny.unet(), Lora(rank=2, targets=("to_q",))).state_dict()
    with pytest.raises(PolicyError, match=r"of another adapter or network: .* names differ, such as"):
        Trainable(tiny.unet(), LORA).load_state_dict(state)
