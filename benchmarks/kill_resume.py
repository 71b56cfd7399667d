"""Exact resume, tried the hard way: a run that is killed (SIGKILL) again and again must end bit for bit like one that was left alone.

Each trial starts a run as a process of its own, kills it at seeded random moments, resumes it every time, and lets it finish once its
kills are used up. Four kills in five fall while the run is at work, the fifth anywhere from the process's first moment on. Then weights,
optimizer state and all else in the last checkpoint, ``metrics.jsonl`` (apart from its seconds) and the saved samples are compared
with the unbroken run's.

    python benchmarks/kill_resume.py                                       # toy/ddpo, 20 kills, some minutes of starting processes
    python benchmarks/kill_resume.py --recipe image/rlcm-compress train.iterations=6 --kills 20 --seed 1

Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tropism import checkpoint

SHORT = ("train.iterations=30", "evaluate.every=10", "save.every=1")  # more chances to be killed in a save; overrides come after these
APART = ("seconds", "phases", "metrics")  # of a checkpoint: times, and the length of a file that has times in it
FOREVER = 1e7  # seconds
TROPISM = (sys.executable, "-c", "from tropism.cli import main; main()")


@dataclass(frozen=True)
class Kill:
    """When a process was killed, and where the run stood then."""

    trial: int
    at_work: bool
    seconds: float  # since the process began
    step: int  # of the newest checkpoint


def command(recipe: str, overrides: Sequence[str], folder: Path, plugin_files: Sequence[Path] = ()) -> list[str]:
    """Start the run in ``folder``, or go on with it where there is one."""
    if (folder / "recipe.yaml").exists():
        return [*TROPISM, "resume", str(folder)]
    plugins = [word for file in plugin_files for word in ("--plugin", str(file))]
    return [*TROPISM, "run", recipe, *SHORT, *overrides, *plugins, "--out", str(folder)]


def killed(words: Sequence[str], log: Path, delay: float, at_work: bool) -> float | None:
    """Run ``words`` and kill it ``delay`` seconds after its start, or after it first writes to ``log``.

    Returns the seconds that it lived, None if it finished before. Raises RuntimeError with its output if it failed by itself.
    """
    before, begin = _stamp(log), time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        try:
            while at_work and process.poll() is None and _stamp(log) == before:
                time.sleep(0.002)
            process.wait(delay)
        except subprocess.TimeoutExpired:
            return time.monotonic() - begin
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(words[3:])} failed by itself:\n{output.read().decode(errors='replace')[-2000:]}")
    return None


def trials(
    recipe: str, overrides: Sequence[str], root: Path, kills: int, seed: int, plugin_files: Sequence[Path] = ()
) -> Iterator[Kill | Path]:
    """Yield each kill, and the folder of each run that has finished; the first folder is the unbroken run's."""
    folder, begin = root / "unbroken", time.monotonic()
    killed(command(recipe, overrides, folder, plugin_files), folder / "metrics.jsonl", FOREVER, False)
    yield folder
    wall, rows = time.monotonic() - begin, _rows(folder / "metrics.jsonl")
    work, last = max(row["seconds"] for row in rows), max(row["step"] for row in rows)
    draw, used, trial = random.Random(seed), 0, 0
    while used < kills:
        trial, step, finished = trial + 1, 0, False
        folder = root / f"killed-{trial}"
        while not finished:
            # A run whose last checkpoint is there has little left that a kill could hurt: it may finish.
            alone, at_work = used == kills or step == last, (used + 1) % 5 != 0
            delay = FOREVER if alone else draw.uniform(0, 2 * work / kills if at_work else wall - work)
            lived = killed(command(recipe, overrides, folder, plugin_files), folder / "metrics.jsonl", delay, at_work and not alone)
            finished = lived is None
            if lived is not None:
                used, newest = used + 1, checkpoint.latest(folder / "checkpoints")
                step = int(newest.name.rpartition("-")[2]) if newest else 0
                yield Kill(trial, at_work, lived, step)
        yield folder


def differences(one: Path, other: Path) -> dict[str, int]:
    """How many values differ between two finished runs, by where; nothing is left out of it but times."""
    states = [checkpoint.load(found) for found in (checkpoint.latest(folder / "checkpoints") for folder in (one, other)) if found]
    if len(states) < 2:
        return {"checkpoints": 1}
    found = {key: _different(states[0].get(key), states[1].get(key)) for key in {**states[0], **states[1]} if key not in APART}
    rows = [[{**row, "seconds": 0} for row in _rows(folder / "metrics.jsonl")] for folder in (one, other)]
    samples = [{p.relative_to(f): p.read_bytes() for p in (f / "samples").rglob("*") if p.is_file()} for f in (one, other)]
    return {**found, "metrics.jsonl": _different(*rows), "samples": _different(*samples)}


def _different(one: Any, other: Any) -> int:
    """The leaves of two trees that are not the same to the bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        return sum(_different(one.get(key, ...), other.get(key, ...)) for key in {**one, **other})
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return sum(_different(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return int(not (same and torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))))
    return int(type(one) is not type(other) or repr(one) != repr(other))


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _stamp(file: Path) -> tuple[int, int]:
    return (file.stat().st_size, file.stat().st_mtime_ns) if file.exists() else (0, 0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"changes to the recipe, after {' '.join(SHORT)}")
    parser.add_argument("--recipe", default="toy/ddpo")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plugin", action="append", default=[], type=Path, help="a Python file with plugin hooks")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the runs in a new folder")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        root, number, wrong = given.keep or Path(temporary), 0, 0
        print(f"{'kill':>4}  {'trial':>5}  {'when':<8}  {'seconds':>7}  {'checkpoint':>10}")
        folders: list[Path] = []
        for event in trials(given.recipe, given.overrides, root, given.kills, given.seed, given.plugin):
            if isinstance(event, Kill):
                number += 1
                when = "at work" if event.at_work else "any time"
                print(f"{number:>4}  {event.trial:>5}  {when:<8}  {event.seconds:>7.2f}  {event.step:>10}", flush=True)
                continue
            folders.append(event)
            if len(folders) > 1:
                found = differences(folders[0], event)
                wrong += sum(found.values())
                told = ", ".join(f"{key} {count}" for key, count in found.items() if count)
                print(f"{event.name}: {'DIFFERS in ' + told if told else 'equal to the bit: ' + ', '.join(found)}", flush=True)
    print(f"{number} kills in {len(folders) - 1} runs of {given.recipe}: {wrong} differences")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
