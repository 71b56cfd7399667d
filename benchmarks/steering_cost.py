"""What particles cost: seconds and memory against their number, and the overhead of steering over the bare denoiser."""

from __future__ import annotations

import ctypes
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from stopwatch import Clock, Watch

from tropism.loop import Run
from tropism.scale import memory
from tropism.steering.fk import Fk
from tropism.turning.particles import steered

PROMPTS = 2
GOAL = 1.05


class Used(Clock):
    """Seconds of the processor, on a processor."""

    def now(self) -> float:
        return super().now() if self.device.type == "cuda" else time.process_time()


def cost(file: Path, job: Callable[[], Run], rounds: int, particles: Sequence[int]) -> dict[str, Any]:
    """Measure ``fk`` and keep it in ``file``, or take it from there. Medians over rounds."""
    settings = {"rounds": rounds, "particles": list(particles), "prompts": PROMPTS}
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text())
        if kept["settings"] == settings:
            return kept
    ready = job()
    watch = Watch(ready, Used(ready.engine.device))
    rows = [_row(ready, watch, count, rounds) for count in particles]
    recipe = ready.recipe
    found = {"settings": settings, "rows": rows, "policy": recipe.policy.use, "steps": recipe.rollout.steps, "batch": recipe.rollout.batch}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1))
    return found


def _row(job: Run, watch: Watch, count: int, rounds: int) -> dict[str, float]:
    """Seconds of a prompt, MiB above what was there before, and (all - decode - reward) / the network's forwards.

    Forwards are timed where they are: alone in a loop they find their weights in the cache, which a decoder beside them empties.
    """
    clock, items, device = watch.clock, job.heldout_items[:PROMPTS], job.engine.device
    list(steered(job, items, Fk(particles=count), 0))  # the first one is slower
    seconds, ratios, most = list[float](), list[float](), list[float]()
    for number in range(rounds):
        before = _reset(device)
        clock.seconds.clear()
        with clock.timing("all"):
            list(steered(job, items, Fk(particles=count), number))
        spent = clock.seconds
        most.append((memory.peak(device) or before) - before)
        seconds.append(spent["all"] / len(items))
        ratios.append((spent["all"] - spent["decode"] - spent["reward"]) / spent["network forward"])
    middle = statistics.median
    return {"particles": count, "seconds": middle(seconds), "memory": middle(most), "ratio": middle(ratios)}


def _reset(device: torch.device) -> float:
    """MiB in use, once what is free has gone back to the system; the peak is counted from now on."""
    if device.type == "cpu" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
    memory.reset(device)
    return memory.peak(device) or 0.0
