"""Start the processes of a run on this machine, and end them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

GRACE = 10.0  # seconds in which the others may end by themselves after one has failed
LAUNCHER = "TROPISM_LAUNCHER"  # in the environment of a process: the process that started it, without which it must not go on


def launch(arguments: Sequence[str], count: int) -> tuple[int, str]:
    """Run ``tropism ARGUMENTS`` in ``count`` processes. Returns the exit status (128 + n after signal n), and what to say where
    one of them has failed.

    They are in sessions of their own, so Ctrl-C reaches only this process, which hands it on once to each of them.
    """
    threads = str(max(1, (os.cpu_count() or 1) // count))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count), LAUNCHER: str(os.getpid())}
    environment = {"OMP_NUM_THREADS": threads, **os.environ, **shared}
    command = [sys.executable, "-m", "tropism", *arguments]
    children: list[subprocess.Popen[bytes]] = []
    with _handing_on(children):
        for rank in range(count):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            children.append(subprocess.Popen(command, env={**environment, **place}, start_new_session=True))
        failed = _wait(children)
        if failed is None:
            return 0, ""
        _end(children)
    status = children[failed].returncode
    if status == 130:  # stopped as asked
        return status, ""
    how = f"was killed by signal {-status}" + (" (out of memory?)" if status == -signal.SIGKILL else "") if status < 0 else "failed"
    said = f"process {failed} of {count} {how}, and the others were ended; what is written above says more"
    return 128 - status if status < 0 else status, said


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all, or for the first that fails: its number."""
    while True:
        states = [child.poll() for child in children]
        failed = [number for number, state in enumerate(states) if state]
        if failed:
            return failed[0]
        if all(state == 0 for state in states):
            return None
        time.sleep(0.05)


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait a little for the rest, which miss the one that failed, then kill them."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(child.poll() is None for child in children):
        time.sleep(0.05)
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()


@contextmanager
def _handing_on(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    asked = [0]

    def hand_on(number: int, frame: FrameType | None) -> None:
        asked[0] += 1
        for child in children:
            if child.poll() is None:
                # The third time they are killed: one that waits for another does not hear the second.
                child.send_signal(signal.SIGINT if asked[0] < 3 else signal.SIGKILL)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
