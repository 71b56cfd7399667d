"""The records: labels of items, conditions that are picked and joined."""

from __future__ import annotations

import pytest
import torch

from tropism.errors import PolicyError
from tropism.types import Condition, label, tree_cat


def test_an_item_is_labelled_by_its_prompt_or_by_all_of_it():
    assert label({"prompt": "a dog", "class": 3}) == "a dog"
    assert label({"class": 3}) == "{'class': 3}"


def test_the_label_is_what_pages_and_tables_show(tmp_path):
    from tropism import gallery
    from tropism.plugins import views
    from tropism.types import Level, Rollout, Steps

    none = torch.zeros(1, 0)
    cond = Condition(items=[{"class": 3}], encoded={}, seed=torch.tensor([5]), group=torch.tensor([0]))
    steps = Steps(x=none, levels=Level(none[0], none[0], none[0]), logp=none, on=none[0].bool())
    samples = Rollout(cond=cond, x0=none, steps=steps, media={"points": torch.ones(1, 2)})
    gallery.write(samples, views(), tmp_path, 1, {})
    assert label(cond.items[0]) in (tmp_path / "index.json").read_text()


def test_picked_conditions_come_in_the_order_asked():
    cond = Condition(
        items=[{"prompt": name} for name in "abc"],
        encoded={"text": {"codes": torch.arange(6).view(3, 2)}},
        seed=torch.tensor([7, 8, 9]),
        group=torch.tensor([0, 0, 1]),
    )
    picked = cond.pick([2, 0])
    assert [item["prompt"] for item in picked.items] == ["c", "a"]
    assert picked.encoded["text"]["codes"].tolist() == [[4, 5], [0, 1]]
    assert (picked.seed.tolist(), picked.group.tolist()) == ([9, 7], [1, 0])
    assert len(cond.pick([])) == 0


def test_conditions_that_make_no_batch_are_named_with_their_place():
    trees = [{"a": {"b": torch.zeros(1, length)}} for length in (3, 3, 4)]
    with pytest.raises(PolicyError, match=r"condition 'a\.b' is \[3\] for one item and \[4\] for another"):
        tree_cat(trees)
    assert tree_cat(trees[:2])["a"]["b"].shape == (2, 3)
