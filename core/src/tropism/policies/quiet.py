"""What libraries print while a pipeline is loaded, and nobody can do anything about: progress bars and three known lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import diffusers.utils.logging
import transformers.utils.logging

HARMLESS = (
    ("Expected types for vae:", "AutoencoderTiny"),  # the shipped models decode by one, and are plain diffusers folders all the same
    ("ImageProcessor` requires torchvision (not installed)", "falling back"),  # of parts that a pipeline could have, and has not
)


def telling(record: logging.LogRecord) -> bool:
    """Whether a line says anything but the known harmless."""
    said = record.getMessage()
    return not any(all(words in said for words in known) for known in HARMLESS)


@contextmanager
def loading() -> Iterator[None]:
    """Inside the block diffusers and transformers show no progress bars and do not print the harmless lines; all else is printed."""
    with ExitStack() as stack:
        for library in (diffusers.utils.logging, transformers.utils.logging):
            if library.is_progress_bar_enabled():
                library.disable_progress_bar()
                stack.callback(library.enable_progress_bar)
        for name in ("diffusers", "transformers"):
            for handler in logging.getLogger(name).handlers:
                handler.addFilter(telling)
                stack.callback(handler.removeFilter, telling)
        yield
