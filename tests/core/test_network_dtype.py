"""The type that a network computes in: asked once, and again when its weights have changed."""

from __future__ import annotations

import torch

from tropism.policies.phases import network_dtype


class Telling(torch.nn.Module):
    """A network that tells its type, and counts how often it is asked; its first parameter is kept in float32."""

    def __init__(self, told: torch.dtype) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.zeros(1))
        self.second = torch.nn.Parameter(torch.zeros(1, dtype=told))
        self.told, self.asked = told, 0

    @property
    def dtype(self) -> torch.dtype:
        self.asked += 1
        return self.told


def test_it_is_asked_once() -> None:
    network = Telling(torch.bfloat16)
    before = network_dtype(network), network.asked
    after = network_dtype(network), network.asked
    assert before == after and before[0] == torch.bfloat16


def test_it_is_asked_again_when_the_weights_are_others() -> None:
    network = Telling(torch.bfloat16)
    network_dtype(network)
    network.told = torch.float16
    network.second = torch.nn.Parameter(network.second.detach().half())  # replaced, as by sharding
    assert network_dtype(network) == torch.float16
    network.told = torch.float32
    network.second.data = network.second.data.float()  # changed in place, as by .to()
    assert network_dtype(network) == torch.float32


def test_it_is_asked_again_while_what_was_replaced_lives_on() -> None:
    network = Telling(torch.bfloat16)
    network_dtype(network)
    kept = network.second
    network.told = torch.float16
    network.second = torch.nn.Parameter(kept.detach().half())
    assert network_dtype(network) == torch.float16 and kept.dtype == torch.bfloat16


def test_it_is_asked_again_when_the_module_of_the_parameter_is_another() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(1, 1, dtype=torch.float64))
    assert network_dtype(network) == torch.float64
    kept = network[0]
    network[0] = torch.nn.Linear(1, 1)
    assert network_dtype(network) == torch.float32
    network[0] = torch.nn.Sequential(kept)  # wrapped, as by an adapter: the parameter has another name
    assert network_dtype(network) == torch.float64


def test_weights_stored_in_another_type_than_they_compute_in_tell_nothing() -> None:
    network = Telling(torch.float16)
    network.told = torch.bfloat16
    assert network_dtype(network) == torch.bfloat16
    network.told = torch.float64
    assert network_dtype(network) == torch.float64


def test_a_plain_module_computes_in_the_type_of_its_first_parameter() -> None:
    assert network_dtype(torch.nn.Linear(1, 1, dtype=torch.float64)) == torch.float64
