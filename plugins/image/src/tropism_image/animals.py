"""Prompts about animals, in the manner of DDPO's experiments, for large text-to-image models."""

from __future__ import annotations

import itertools

from tropism.types import Item

ANIMALS = (
    "fox", "cat", "dog", "horse", "cow", "sheep", "goat", "pig", "donkey", "camel", "llama", "deer", "moose", "bear", "wolf",
    "lion", "tiger", "leopard", "monkey", "gorilla", "panda", "koala", "kangaroo", "rabbit", "squirrel", "hedgehog", "beaver", "otter",
    "mouse", "bat", "elephant", "hippopotamus", "rhinoceros", "giraffe", "zebra", "chicken", "duck", "goose", "swan", "penguin",
    "parrot", "eagle", "owl", "flamingo", "turtle", "snake", "lizard", "crocodile", "frog", "goldfish", "shark", "whale", "dolphin",
    "octopus", "crab", "lobster", "butterfly", "bee", "spider", "snail",
)  # fmt: skip
DOINGS = ("riding a bike", "playing chess", "washing dishes", "reading a newspaper", "flying a kite", "baking bread")
STYLES = ("a photo of", "a watercolour of", "a pencil drawing of", "a stained glass window of")
EVERY = 5  # of five animals one is kept for evaluation, in all that it does


class Animals:
    """60 animals, 48 to train on and 12 ``heldout``.

    doing: each at six occupations, so that a prompt has something to get right (Black et al. 2024, arXiv:2305.13301, section 5.2, whose
    first three these are); styles: each in four styles. Both: 1,152 prompts to train on.
    """

    def __init__(self, doing: bool = False, styles: bool = False) -> None:
        self.doing, self.styles = doing, styles
        self.train = self._prompts([name for index, name in enumerate(ANIMALS) if index % EVERY])
        self.heldout = self._prompts(list(ANIMALS[::EVERY]))

    def _prompts(self, names: list[str]) -> list[Item]:
        """Every animal once before any comes again: an evaluation of 12 prompts sees all that are held out."""
        shown = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
        ways = list(itertools.product(DOINGS if self.doing else ("",), STYLES if self.styles else ("",)))
        return [
            {"prompt": " ".join(part for part in (style, name, doing) if part)}
            for turn in range(len(ways))
            for place, name in enumerate(shown)
            for doing, style in [ways[(turn + place) % len(ways)]]
        ]
