"""What this plugin registers. Nothing heavy is imported here."""

from __future__ import annotations

from tropism import Entry, hookimpl

HERE = "tropism_3d"


@hookimpl
def register_rewards() -> list[Entry]:
    return []
