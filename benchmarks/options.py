"""What the options that save memory or time cost: the same iterations of one recipe, each option in processes of its own.

    python benchmarks/options.py                          # image/ddpo-compress, 32 samples of 4 steps; writes docs/results/options.md
    python benchmarks/options.py --rounds 5 --only checkpointing compile

Seconds are those of the processor, over all threads and processes, so that other work on the machine does not count; memory is the most
that a process has resident, less what it had before the first iteration (weights, libraries). Rounds of the options take turns. On a
GPU other numbers come out: half precision, compiling and sharding are made for it. float16 is left out: a processor has no
fast kernels for it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs/results/options.md"
RECIPE = "image/ddpo-compress"
SETTINGS = ("device=cpu", "rollout.samples=32", "rollout.batch=32", "rollout.steps=4", "train.updates=1", "train.micro=32")


@dataclass(frozen=True)
class Option:
    """Changes to the recipe, in how many processes it runs, and what a reader should know of it."""

    changes: tuple[str, ...] = ()
    processes: int = 1
    note: str = ""


OPTIONS = {
    "plain": Option(),
    "checkpointing": Option(("train.checkpointing=true",), note="the network's forward runs again in the backward pass"),
    "decode 4": Option(("rollout.decode=4",), note="the decoder sees 4 of 32 samples at once"),
    "micro 8": Option(("rollout.batch=8", "train.micro=8"), note="a quarter of the rows at once, for comparison"),
    "bf16": Option(("train.precision=bf16",), note="autocast; weights stay float32"),
    "compile": Option(("train.compile=inductor",), note="the first iteration compiles"),
    "offload": Option(("train.offload=true",), note="there is no other device here: this is the price of the bookkeeping"),
    "2 processes": Option(("rollout.batch=16", "train.micro=16"), 2, "each has all weights"),
    "2 processes, sharded": Option(("rollout.batch=16", "train.micro=16", "train.shard=true"), 2, "each has half of the weights"),
}


def iterate(changes: Sequence[str], count: int) -> dict[str, Any]:
    """In a child: ``count`` iterations after a first one. Returns seconds by iteration and the first's, megabytes, and the first ratio."""
    from rich.console import Console

    from tropism import api
    from tropism.loop import Run
    from tropism.progress import Progress
    from tropism.recipe import Evaluate
    from tropism.scale.processes import Processes

    manager, catalog = api.loaded()
    recipe = api.load_recipe(RECIPE, catalog, [*SETTINGS, *changes])[0]
    recipe = recipe.model_copy(update={"evaluate": Evaluate(), "guard": None, "track": ()})
    processes = Processes.join()
    with tempfile.TemporaryDirectory() as folder:
        job = Run(recipe, Path(folder), manager, catalog, Progress(Console(quiet=True)), processes)
        _peak()
        before, peaks, seconds, ratios = _status("VmRSS"), (0.0, 0.0), list[float](), list[float]()
        for _ in range(count + 1):
            begin = _used()
            material = job.source.take()
            # Only of the first: what an update has let go stays with the process, and would be counted as a later rollout's.
            peaks = peaks[0] or _peak(), peaks[1]
            _peak()
            numbers = job.update(material)
            job.step += 1
            seconds.append(_used() - begin)
            peaks = peaks[0], max(peaks[1], _peak())
            ratios.append(numbers["train/first_ratio_error"])
        shards = sum(p.to_local().nbytes if hasattr(p, "to_local") else p.nbytes for p in job.policy.trainable().parameters())
    processes.leave()
    return {
        "first": seconds[0],
        "seconds": seconds[1:],
        "rollout": peaks[0] - before,
        "update": peaks[1] - before,
        "ratio": max(ratios),
        "weights": shards / 2**20,
    }


def _used() -> float:
    """Seconds of processor time of this process and of the compilers that it has started."""
    return sum(r.ru_utime + r.ru_stime for r in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def _status(name: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def _peak() -> float:
    """Megabytes that were resident at most since the last time that this was asked (Linux)."""
    found = _status("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")
    return found


def child(option: Option, count: int) -> dict[str, Any]:
    """Run one option. Returns what :func:`iterate` does: seconds summed over its processes, the rest of the largest."""
    from tropism.scale.launch import _free_port

    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(option.processes), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", json.dumps([option.changes, count])]
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(option.processes)]
    running = [subprocess.Popen(command, env={**os.environ, **shared, **place}, stdout=subprocess.PIPE, text=True) for place in places]
    texts = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"{option} failed; what is written above says more")
    found = [json.loads(text.splitlines()[-1]) for text in texts]
    return {
        "first": sum(one["first"] for one in found),
        "seconds": [sum(many) for many in zip(*(one["seconds"] for one in found), strict=True)],
        **{name: max(one[name] for one in found) for name in ("rollout", "update", "ratio", "weights")},
    }


def measure(names: Sequence[str], rounds: int, count: int = 2) -> dict[str, Any]:
    """Every option ``rounds`` times, in turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            found[name].append(child(OPTIONS[name], count))
            print(f"round {number + 1}: {name}: {json.dumps(found[name][-1])}", flush=True)
    return {
        name: {
            "seconds": statistics.median(value for one in several for value in one["seconds"]),
            **{key: statistics.median(one[key] for one in several) for key in ("first", "rollout", "update", "weights")},
            "ratio": max(one["ratio"] for one in several),
        }
        for name, several in found.items()
    }


def page(found: dict[str, Any], rounds: int, command: str) -> str:
    """The table as Markdown, relative to the plain run."""
    import torch

    plain = found["plain"]
    lines = [
        "# What the options cost",
        "",
        f"`{RECIPE}` with {', '.join(f'`{setting}`' for setting in SETTINGS)}: medians of two iterations after the first, of {rounds} "
        f"round{'s' if rounds > 1 else ''} in which the options take turns. torch {torch.__version__}, one thread each, on a shared core",
        "without a GPU: **compare ratios**, and expect others on a GPU, which half precision, compiling and sharding are made for.",
        "Seconds are processor seconds, summed over processes. Memory is in MiB, of one process: its peaks in the first rollout (reward",
        "included) and in updates, less what it had before, and the network's weights. Generated by",
        "",
        f"    {command}",
        "",
        "| option | seconds | of plain | the first | in rollouts | of plain | in updates | of plain | weights | first ratio's error | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        times, sampling, learning = (one[key] / plain[key] for key in ("seconds", "rollout", "update"))
        lines.append(
            f"| {name} | {one['seconds']:.2f} | {times:.2f} | {one['first']:.2f} | {one['rollout']:.0f} | {sampling:.2f} | "
            f"{one['update']:.0f} | {learning:.2f} | {one['weights']:.1f} | {one['ratio']:.1g} | {OPTIONS[name].note} |"
        )
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--child"]:
        changes, count = json.loads(given[1])
        print(json.dumps(iterate(changes, count)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(OPTIONS), default=list(OPTIONS), help="these; plain is always among them")
    parser.add_argument("--out", type=Path, default=PAGE, help="where the page is written")
    words = parser.parse_args(given)
    names = ["plain", *(name for name in words.only if name != "plain")]
    found = measure(names, words.rounds)
    words.out.write_text(page(found, words.rounds, " ".join(["python benchmarks/options.py", *given])))


if __name__ == "__main__":
    main()
