"""Attention that a pipeline gives its network only while it runs, as perturbed-attention guidance does (arXiv 2403.17377)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tropism.policies.record import Call
from tropism.policies.roles import CallRule


def seen_with(pipe: Any, rule: CallRule, call: Call) -> CallRule:
    """The rule with the attention processors that the network had in the watched run, where it has others now."""
    now = getattr(getattr(pipe, rule.module), "attn_processors", {})
    changed = any(call.processors.get(name) is not processor for name, processor in now.items())
    return replace(rule, processors=call.processors) if changed else rule


@contextmanager
def of(network: Any, processors: Mapping[str, Any]) -> Iterator[None]:
    """Inside the block the network has these attention processors; nothing happens where there are none."""
    if not processors:
        yield
        return
    kept = dict(network.attn_processors)
    network.set_attn_processor(dict(processors))
    try:
        yield
    finally:
        network.set_attn_processor(kept)
