"""Conditions are encoded once, live on the CPU within a limit, and come out on the device of the network."""

from __future__ import annotations

import pytest
import torch

from tropism.errors import PolicyError
from tropism.policies.cache import Conditions


class Words:
    """Encodes a prompt as the codes of its letters, 8 bytes each, and remembers what it was asked for."""

    def __init__(self, device: str = "cpu", pad: bool = True) -> None:
        self.network, self.asked, self.pad = torch.nn.Linear(1, 1, device=device), list[str](), pad

    def trainable(self) -> torch.nn.Module:
        return self.network

    def encode(self, items):
        prompts = [item["prompt"] for item in items]
        self.asked.extend(prompts)
        width = 4 if self.pad else len(prompts[0])
        codes = torch.tensor([[ord(letter) for letter in prompt.ljust(width)] for prompt in prompts])
        return {"text": {"codes": codes}, "length": torch.tensor([[len(prompt)] for prompt in prompts])}


def items(*prompts: str) -> list[dict[str, str]]:
    return [{"prompt": prompt} for prompt in prompts]


def text(encoded) -> list[str]:
    return ["".join(map(chr, row)) for row in encoded["text"]["codes"].tolist()]


def test_an_item_is_encoded_once_and_rows_come_in_the_order_asked():
    policy = Words()
    conditions = Conditions(policy, batch=2)
    assert text(conditions.encode(items("cat", "dog", "cat", "ox"))) == ["cat ", "dog ", "cat ", "ox  "]
    again = conditions.encode(items("ox", "cat"))
    assert text(again) == ["ox  ", "cat "] and again["length"].tolist() == [[2], [3]]
    assert policy.asked == ["cat", "dog", "ox"]


def test_rows_are_kept_on_the_cpu_and_given_out_on_the_networks_device():
    conditions = Conditions(Words(device="meta"))
    given = conditions.encode(items("cat", "dog"))
    assert given["text"]["codes"].device.type == given["length"].device.type == "meta"
    assert {row["length"].device.type for row in conditions.rows.values()} == {"cpu"}


def test_a_kept_row_holds_its_own_memory_and_not_its_batchs():
    conditions = Conditions(Words())
    conditions.encode(items("a", "b", "c"))
    (row, *_) = conditions.rows.values()
    assert row["text"]["codes"].untyped_storage().nbytes() == 4 * 8


def test_beyond_the_limit_the_item_asked_for_longest_ago_is_forgotten():
    policy = Words()
    conditions = Conditions(policy, limit=2 * 5 * 8)  # two rows of four codes and a length
    conditions.encode(items("a", "b"))
    conditions.encode(items("a"))
    conditions.encode(items("c"))  # forgets b, which was asked for before a
    assert conditions.size == 2 * 5 * 8 and len(conditions.rows) == 2
    conditions.encode(items("a", "c"))
    assert policy.asked == ["a", "b", "c"]
    assert text(conditions.encode(items("b"))) == ["b   "]
    assert policy.asked == ["a", "b", "c", "b"]


def test_one_call_may_ask_for_more_than_the_limit():
    conditions = Conditions(Words(), limit=1)
    assert text(conditions.encode(items("a", "b", "c", "a"))) == ["a   ", "b   ", "c   ", "a   "]
    assert (conditions.size, len(conditions.rows)) == (0, 0)


def test_conditions_of_different_lengths_are_refused_by_the_arguments_name():
    conditions = Conditions(Words(pad=False), batch=1)
    with pytest.raises(PolicyError, match=r"condition 'text\.codes' is \[3\] for one item and \[5\] for another"):
        conditions.encode(items("cat", "horse"))
