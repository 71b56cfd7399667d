"""Prompts, and the order in which a run takes them."""

from __future__ import annotations

import pytest

from tropism.data.prompts import Order, Prompts
from tropism.errors import RecipeError


def test_prompts_come_from_files_and_lists_without_blanks_and_comments(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# animals\na cat\n\n  a dog  \n")
    data = Prompts(str(file), ["x", "", "# no", " y "])
    assert data.train == [{"prompt": "a cat"}, {"prompt": "a dog"}]
    assert data.heldout == [{"prompt": "x"}, {"prompt": "y"}]
    assert Prompts(["x"]).heldout == [{"prompt": "x"}]


def test_missing_files_and_empty_sources_are_named(tmp_path):
    with pytest.raises(RecipeError, match=r"prompt file '.*none\.txt' not found"):
        Prompts(str(tmp_path / "none.txt"))
    with pytest.raises(RecipeError, match=r"no prompts in \['', '# x'\]"):
        Prompts(["", "# x"])


@pytest.mark.parametrize("pieces", [[20], [3, 4, 13], [1] * 20, [7, 7, 6]])
def test_the_order_does_not_depend_on_how_it_is_taken(pieces):
    order, taken = Order(6, seed=3), []
    for piece in pieces:
        taken += order.take(len(taken), piece)
    assert taken == Order(6, seed=3).take(0, 20)


def test_every_item_comes_once_before_any_comes_again_and_rounds_differ():
    taken = Order(6, seed=0).take(0, 60)
    rounds = [taken[begin : begin + 6] for begin in range(0, 60, 6)]
    assert all(sorted(part) == list(range(6)) for part in rounds)
    assert len({tuple(part) for part in rounds}) > 5
    assert taken != Order(6, seed=1).take(0, 60)
