"""The command line. Every command is a file here, imported only when it is asked for; heavy imports stand inside its function."""

from __future__ import annotations

import os

from tropism.cli.group import cli


def main() -> None:
    """The ``tropism`` program. The chatter of the libraries below it is switched off, unless the user has asked for it."""
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    cli(prog_name="tropism")


__all__ = ["cli", "main"]
