"""The engine's promises that show without a GPU: random states, deterministic kernels, and when the clock waits for the device."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from tropism.clock import Clock
from tropism.scale.engine import Engine


def test_the_cpus_random_state_goes_round():
    engine = Engine("cpu")
    state = engine.random_state()
    drawn = torch.randn(3)
    engine.load_random_state(state)
    assert state.keys() == {"cpu"} and torch.equal(torch.randn(3), drawn)


def test_on_cuda_its_random_state_is_kept_too(monkeypatch):
    engine, put = Engine("cpu"), []
    engine.device = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([7, device.index]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put.append((state.tolist(), device.index)))
    state = engine.random_state()
    engine.load_random_state(state)
    assert put == [([7, 1], 1)]
    engine.load_random_state({"cpu": state["cpu"]})  # of a run that was begun on the CPU
    assert len(put) == 1


def test_deterministic_kernels_are_asked_for_only_on_demand():
    code = (
        "import os, torch; from tropism.scale.engine import Engine\n"
        "Engine('cpu'); assert not torch.are_deterministic_algorithms_enabled()\n"
        "Engine('cpu', deterministic=True); assert torch.are_deterministic_algorithms_enabled()\n"
        "assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8' and not torch.backends.cudnn.benchmark"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_phase_waits_for_the_device_once_at_its_end_and_is_charged_with_the_wait():
    waits = []
    clock = Clock(lambda: (waits.append(1), time.sleep(0.02)))
    with clock.phase("rollout"):
        assert waits == []
    assert waits == [1] and 0.02 <= clock.phases["rollout"] < 1 and clock.phases["update"] == 0


def test_a_phase_that_raises_does_not_wait():
    clock = Clock(lambda: pytest.fail("waited for a device that may be lost"))
    with pytest.raises(ValueError, match="lost"), clock.phase("rollout"):
        raise ValueError("lost")


def test_the_clock_goes_on_where_it_was():
    clock = Clock(lambda: None)
    clock.load_state_dict({"seconds": 100.0, "phases": {"rollout": 60.0}})
    with clock.phase("rollout"):
        pass
    assert 100 <= clock.elapsed() < 101 and 60 <= clock.state_dict()["phases"]["rollout"] < 61
