"""Starting several processes: they end together, and Ctrl-C is handed on once to each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tropism.scale import launch
from tropism.stop import Stop

PROGRAM = """\
#!{python}
import os, signal, sys, time
from pathlib import Path
rank, here = os.environ["RANK"], Path({folder!r})
place = [os.environ[name] for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")]
(here / f"place-{{rank}}").write_text(" ".join([*sys.argv[1:], *place]))
heard = []
def hear(number, frame):
    heard.append(number)
    (here / f"heard-{{rank}}").write_text(str(len(heard)))
signal.signal(signal.SIGINT, hear)
{body}
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Let a short program stand for ``python -m tropism``."""

    def install(body: str) -> Path:
        file = tmp_path / "program"
        file.write_text(PROGRAM.format(python=sys.executable, folder=str(tmp_path), body=textwrap.dedent(body)))
        file.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(file))
        monkeypatch.setattr(launch, "GRACE", 0.5)
        return tmp_path

    return install


def test_each_process_is_told_its_place(program):
    folder = program("")
    assert launch.launch(["resume", "runs/x"], 3) == (0, "")
    places = [(folder / f"place-{rank}").read_text().split() for rank in range(3)]
    assert [place[:6] for place in places] == [["-m", "tropism", "resume", "runs/x", "3", str(rank)] for rank in range(3)]
    assert len({place[6] for place in places}) == 1


def test_when_one_fails_the_others_are_ended_and_it_is_named(program):
    folder = program("sys.exit(3) if rank == '1' else time.sleep(600)")
    begin = time.monotonic()
    status, said = launch.launch(["resume"], 3)
    assert status == 3 and said.startswith("process 1 of 3 failed, and the others were ended")
    assert time.monotonic() - begin < 300
    assert len(list(folder.glob("place-*"))) >= 1


def test_one_that_was_killed_is_told_so(program):
    program("os.kill(os.getpid(), signal.SIGKILL) if rank == '0' else None")
    status, said = launch.launch(["resume"], 2)
    assert status == 128 + signal.SIGKILL and "process 0 of 2 was killed by signal 9 (out of memory?)" in said


def test_ctrl_c_reaches_each_once_and_their_polite_end_is_waited_for(program):
    folder = program(
        """
        while not heard:
            time.sleep(0.01)
        time.sleep(1.0)  # saving takes longer than the grace that a failure leaves
        (here / f"saved-{rank}").write_text("")
        sys.exit(130 if rank == "0" else 0)
        """
    )

    def press() -> None:
        while len(list(folder.glob("place-*"))) < 2:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    threading.Thread(target=press).start()
    assert launch.launch(["resume"], 2) == (130, "")
    assert signal.getsignal(signal.SIGINT) is before
    assert [(folder / f"heard-{rank}").read_text() for rank in range(2)] == ["1", "1"]
    assert (folder / "saved-0").exists() and (folder / "saved-1").exists()


def test_a_process_whose_launcher_is_gone_is_asked_to_stop(monkeypatch):
    monkeypatch.setenv(launch.LAUNCHER, str(os.getppid()))
    assert not Stop().asked
    monkeypatch.setenv(launch.LAUNCHER, str(os.getppid() + 1))
    assert Stop().asked


@pytest.mark.slow
def test_the_command_line_runs_two_processes_and_stops_and_resumes_them(tmp_path):
    """As a person meets it: ``tropism run --nproc 2``, Ctrl-C, ``tropism resume --nproc 2``."""
    folder = tmp_path / "run"
    tiny = ["rollout.samples=16", "rollout.batch=8", "evaluate.per_prompt=8", "train.iterations=100000"]
    command = [sys.executable, "-m", "tropism"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "run", "toy/ddpo", *tiny, "--out", str(folder), "--nproc", "2"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline, seen = time.monotonic() + 180, folder / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None and not (seen.exists() and "reward/combined" in seen.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert output.count("stopping after this iteration") == 1 and output.count("go on with: tropism resume") == 1, output
    (newest,) = [int(path.name.removeprefix("step-")) for path in sorted((folder / "checkpoints").glob("step-*"))][-1:]
    assert newest > 0
    done = subprocess.run(
        [*command, "resume", str(folder), "--nproc", "2", "--iterations", str(newest + 2)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0 and done.stdout.count("finished") == 1, done.stdout + done.stderr
    refused = subprocess.run(
        [*command, "run", "toy/ddpo", "--nproc", "3", "--out", str(tmp_path / "no")], env=environment, capture_output=True, text=True
    )
    assert refused.returncode == 1 and "does not divide over 3 processes" in refused.stderr and not (tmp_path / "no").exists()
