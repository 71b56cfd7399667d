"""Checkpoints: whole or not at all, bit for bit, and a fault names the folder."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from tropism import checkpoint
from tropism.checkpoint import META, TENSORS
from tropism.errors import CheckpointError


def same(a, b):
    """Equal in structure, types and bits."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
    if isinstance(a, dict):
        return (
            isinstance(b, dict)
            and list(a) == list(b)
            and all(type(x) is type(y) for x, y in zip(a, b))
            and all(same(a[k], b[k]) for k in a)
        )
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


STATE = {
    "step": 12,
    "lr": 1e-4,
    "tenth": 0.1 + 0.2,
    "nothing": None,
    "yes": True,
    "text": "a 'quoted' ünïcode\nline",
    "infinite": [math.inf, -math.inf, math.nan],
    "empty": {"dict": {}, "list": [], "tensor": torch.empty(0, 3)},
    "state": {0: {"exp_avg": torch.randn(3, 2), "step": torch.tensor(7.0)}, 1: {"exp_avg": torch.randn(5)}},
    "weights": {"a.b": torch.randn(4, 4).to(torch.bfloat16), "half": torch.randn(3).half(), "flags": torch.tensor([True, False])},
    "random": torch.get_rng_state(),
    "special": torch.tensor([math.nan, -0.0, math.inf, 1e-45]),
    "big": torch.tensor([2**62 + 1], dtype=torch.int64),
}


def test_a_nested_state_comes_back_bit_for_bit(tmp_path):
    folder = checkpoint.save(tmp_path / "step-00000001", STATE)
    assert same(checkpoint.load(folder), STATE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001"]


def test_paths_that_look_alike_keep_their_own_tensors(tmp_path):
    state = {"a/b": torch.tensor([1.0]), "a": {"b": torch.tensor([2.0])}, "n": {1: torch.tensor([3.0]), "1": torch.tensor([4.0])}}
    assert same(checkpoint.load(checkpoint.save(tmp_path / "s", state)), state)


def test_views_and_shared_and_transposed_tensors_are_stored_by_value(tmp_path):
    weight = torch.arange(12.0).reshape(3, 4)
    state = {"one": weight, "same": weight, "turned": weight.T, "part": weight[1:, ::2]}
    assert same(checkpoint.load(checkpoint.save(tmp_path / "s", state)), state)


def test_a_torch_optimizer_goes_on_exactly_after_a_round_trip(tmp_path):
    def made():
        torch.manual_seed(1)
        net = torch.nn.Linear(3, 2)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1)

    def update(net, optimizer, seed):
        net(torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    straight = made()
    for seed in range(4):
        update(*straight, seed)
    first = made()
    for seed in range(2):
        update(*first, seed)
    state = checkpoint.load(checkpoint.save(tmp_path / "s", {"net": first[0].state_dict(), "optimizer": first[1].state_dict()}))
    second = made()
    second[0].load_state_dict(state["net"])
    second[1].load_state_dict(state["optimizer"])
    for seed in range(2, 4):
        update(*second, seed)
    assert torch.equal(straight[0].weight, second[0].weight)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", lambda: 0])
def test_what_cannot_be_stored_is_refused_with_its_place(tmp_path, value):
    with pytest.raises((TypeError, CheckpointError), match=r"credit/seen"):
        checkpoint.save(tmp_path / "s", {"credit": {"seen": value}})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"step-00000009.*(\n.*)*no such folder"):
        checkpoint.load(tmp_path / "step-00000009")


@pytest.mark.parametrize("name", [TENSORS, META])
def test_a_missing_file_is_a_named_fault(tmp_path, name):
    folder = checkpoint.save(tmp_path / "step-00000001", STATE)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"step-00000001.*cannot be read"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", [TENSORS, META])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_a_named_fault(tmp_path, name, keep):
    folder = checkpoint.save(tmp_path / "step-00000001", STATE)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointError, match=r"step-00000001.*cannot be read"):
        checkpoint.load(folder)


@pytest.mark.parametrize("place", [0, 9, 200, -1])
def test_one_altered_byte_among_the_tensors_is_a_named_fault(tmp_path, place):
    folder = checkpoint.save(tmp_path / "step-00000001", STATE)
    data = bytearray((folder / TENSORS).read_bytes())
    data[place] ^= 1
    (folder / TENSORS).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step-00000001.*digest"):
        checkpoint.load(folder)


def test_an_altered_number_among_the_rest_is_a_named_fault(tmp_path):
    folder = checkpoint.save(tmp_path / "step-00000001", {"step": 12, "tensor": torch.ones(2)})
    text = (folder / META).read_text()
    assert '"step", 12' in text
    (folder / META).write_text(text.replace('"step", 12', '"step", 13'))
    with pytest.raises(CheckpointError, match=r"step-00000001.*digest"):
        checkpoint.load(folder)


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"version": 1}', "not json", '"text"'])
def test_other_content_than_a_checkpoint_is_a_named_fault(tmp_path, content):
    folder = checkpoint.save(tmp_path / "step-00000001", STATE)
    (folder / META).write_text(content)
    with pytest.raises(CheckpointError, match="step-00000001"):
        checkpoint.load(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_checkpoint_of_another_format_version_is_refused(tmp_path, version):
    folder = checkpoint.save(tmp_path / "step-00000001", STATE)
    meta = json.loads((folder / META).read_text())
    assert meta["version"] == checkpoint.VERSION
    (folder / META).write_text(json.dumps({**meta, "version": version}))
    with pytest.raises(CheckpointError, match=rf"step-00000001.*format version {version!r}, and this tropism reads version 1"):
        checkpoint.load(folder)


FAULTS = {
    "disk full on the tensors": ("save_file", OSError(errno.ENOSPC, "No space left on device")),
    "safetensors' own error": ("save_file", SafetensorError("I/O error: No space left on device")),
    "disk full on the digest": ("_digest", OSError(errno.ENOSPC, "No space left on device")),
    "disk full on the sync": ("_sync", OSError(errno.ENOSPC, "No space left on device")),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("again", [False, True], ids=["new step", "same step"])
def test_a_save_that_fails_half_way_leaves_no_debris_and_the_earlier_checkpoint(tmp_path, monkeypatch, fault, again):
    earlier = checkpoint.save(tmp_path / "step-00000001", STATE)
    name, error = FAULTS[fault]

    def fail(*args):
        if name == "save_file":  # part of the file was written before the disk was full
            Path(args[1]).write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, name, fail)
        with pytest.raises(CheckpointError, match=r"step-0000000\d could not be written: .*No space left") as told:
            checkpoint.save(tmp_path / ("step-00000001" if again else "step-00000002"), {"step": 2})
    assert "tropism resume" in str(told.value)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert same(checkpoint.load(earlier), STATE)


def test_a_rename_that_fails_keeps_the_checkpoint_that_was_to_be_replaced(tmp_path, monkeypatch):
    folder = checkpoint.save(tmp_path / "step-00000001", STATE)
    original = Path.rename

    def fail(self, target):
        if self.name.startswith(".tmp-") and Path(target) == folder and (self / META).exists():
            fail.calls += 1
            if fail.calls == 1:
                raise OSError(errno.EIO, "Input/output error")
        return original(self, target)

    fail.calls = 0
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoint.save(folder, {"step": 2})
    assert fail.calls >= 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert same(checkpoint.load(folder), STATE)


@pytest.mark.parametrize("again", [False, True], ids=["new step", "same step"])
def test_killed_at_any_system_call_the_newest_listed_checkpoint_is_whole(tmp_path, again):
    """A child saves twice and dies (no clean-up runs) at its nth file operation; whatever it leaves, what is listed loads."""
    program = f"""
import os, sys, torch
from pathlib import Path
from tropism import checkpoint
torch.set_num_threads(1)
root, last = Path(sys.argv[1]), int(sys.argv[2])
checkpoint.save(root / "step-00000001", {{"step": 1, "w": torch.ones(3)}})
count = 0
def hook(event, args):
    global count
    if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        count += 1
        if count > last:
            os._exit(9)
sys.addaudithook(hook)
checkpoint.save(root / "step-0000000{1 if again else 2}", {{"step": 2, "w": torch.zeros(3)}})
checkpoint.prune(root, 1)
"""
    outcomes = set()
    pids = []
    for last in range(0, 40, 1):
        # A fork of one warm process would be faster, but forking a process that has loaded torch is not safe everywhere.
        root = tmp_path / str(last)
        root.mkdir()
        pids.append((root, last))
    runner = f"""
import os, sys
import torch
from tropism import checkpoint
torch.set_num_threads(1)
program = compile({program!r}, "child", "exec")
for last in range(40):
    pid = os.fork()
    if pid == 0:
        sys.argv = ["child", os.path.join(sys.argv[1], str(last)), str(last)]
        exec(program, {{}})
        os._exit(0)
    os.waitpid(pid, 0)
"""
    subprocess.run([sys.executable, "-c", runner, str(tmp_path)], check=True, timeout=120)
    for root, last in pids:
        newest = checkpoint.latest(root)
        if newest is None:  # between the two renames that replace a checkpoint by another of the same step
            assert again, f"nothing to go back to when killed at operation {last}"
            outcomes.add(0)
            continue
        state = checkpoint.load(newest)
        assert torch.equal(state["w"], torch.ones(3) if state["step"] == 1 else torch.zeros(3))
        outcomes.add(state["step"])
        checkpoint.sweep(root)
        assert not list(root.glob(".tmp-*"))
    assert {1, 2} <= outcomes, "the kills were meant to fall before and after the save"


def test_what_a_killed_save_left_is_swept_by_the_next_one_and_never_listed(tmp_path):
    debris = tmp_path / ".tmp-step-00000001-123"
    debris.mkdir()
    (debris / TENSORS).write_bytes(b"half")
    (tmp_path / "step-00000007").mkdir()  # no state.json in it
    (tmp_path / "step-7").mkdir()
    assert checkpoint.latest(tmp_path) is None
    folder = checkpoint.save(tmp_path / "step-00000002", {"step": 2})
    assert not debris.exists()
    assert checkpoint.steps(tmp_path) == [folder]


def test_latest_and_prune_go_by_step_and_keep_the_newest(tmp_path):
    made = [checkpoint.save(checkpoint.step_folder(tmp_path, step), {"step": step}) for step in (3, 20, 100)]
    assert [p.name for p in made] == ["step-00000003", "step-00000020", "step-00000100"]
    assert checkpoint.latest(tmp_path) == made[2]
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.steps(tmp_path) == made[1:]
    checkpoint.prune(tmp_path, 5)
    assert checkpoint.steps(tmp_path) == made[1:]
    assert [checkpoint.load(p)["step"] for p in made[1:]] == [20, 100]


def test_nothing_is_pickled(tmp_path):
    folder = checkpoint.save(tmp_path / "s", STATE)
    json.loads((folder / META).read_text())
    assert sorted(p.name for p in folder.iterdir()) == [META, TENSORS]
