"""Settings for every test: one thread and no network, so that results and times do not depend on the machine."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # bit-for-bit promises of these tests are stated for the CPU
os.environ["TROPISM_DISABLE_PLUGINS"] = ""  # a developer's own setting must not change what is tested

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test begins at the same global random state, whichever ran before it."""
    torch.manual_seed(0)
