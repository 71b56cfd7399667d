"""tropism turns any diffusion, flow or consistency model toward a reward or a preference.

Importing this package imports neither torch nor a plugin; the heavy names load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from tropism.entry import Entry
from tropism.errors import TropismError
from tropism.hookspecs import hookimpl

__version__ = "0.1.0"

_LAZY = {
    "capture": "tropism.policies.pipeline",
    "run": "tropism.api",
    "steer": "tropism.turning.pipeline",
    "export": "tropism.exports",
    "Rollout": "tropism.types",
    "Condition": "tropism.types",
}

__all__ = ["Entry", "TropismError", "__version__", "hookimpl", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tropism' has no attribute '{name}'")
