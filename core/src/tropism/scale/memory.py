"""The most memory that was in use since a moment: of a GPU, or of the process where the system tells it (Linux)."""

from __future__ import annotations

from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset(device: torch.device) -> None:
    """Count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        try:
            CLEAR.write_text("5")
        except OSError:  # not Linux, or a container that forbids it: then :func:`peak` is that of the whole process, or None
            return


def peak(device: torch.device) -> float | None:
    """MiB at most in use since :func:`reset`: tensors on a GPU, all of the process on a processor. None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type != "cpu" or not STATUS.is_file():
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) / 1024 if "VmHWM" in lines else None
