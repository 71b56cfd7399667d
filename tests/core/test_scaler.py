"""float16: the scale moves as torch's own does, a skipped update changes nothing but it, and overflow that stays is named."""

from __future__ import annotations

import json

import pytest
import torch

from tropism import api, checkpoint
from tropism.errors import DivergedError
from tropism.scale.engine import Engine
from tropism.scale.float16 import Scaler

OVERRIDES = ["device=cpu", "train.precision=fp16", "train.iterations=4", "rollout.samples=16", "rollout.batch=8", "evaluate.per_prompt=8"]


def test_the_scale_is_that_of_torchs_own_scaler():
    weight = torch.nn.Parameter(torch.ones(1))
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    ours, descent = Scaler(interval=3), torch.optim.SGD([weight], lr=0.0)
    for finite in (False, False, True, True, False, True, True, True, True, False):
        theirs.scale(weight.sum() * (1.0 if finite else float("inf"))).backward()
        theirs.step(descent)
        theirs.update()
        descent.zero_grad()
        assert ours.seen(1.0 if finite else float("nan")) == finite
        assert ours.scale == theirs.get_scale() and ours.good == theirs.state_dict()["_growth_tracker"]
    assert ours.skipped == 4
    other = Scaler(interval=3)
    other.load_state_dict(json.loads(json.dumps(ours.state_dict())))
    assert vars(other) == vars(ours)


def test_an_update_is_that_of_float32_and_an_overflow_changes_only_the_scale():
    steps = {}
    for precision in ("fp32", "fp16"):
        engine, weight = Engine("cpu", precision), torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        adam = torch.optim.AdamW([weight], lr=0.1)
        engine.backward((weight**2).sum() * 1e-3, last=True)
        assert engine.update(adam, [weight], 1.0) == pytest.approx(2e-3 * 5**0.5, rel=1e-6)
        steps[precision] = weight.detach().clone()
    assert torch.equal(steps["fp32"], steps["fp16"])
    engine.backward(weight.sum() * float("inf"), last=True)
    assert engine.update(adam, [weight], 1.0) is None
    assert torch.equal(weight, steps["fp16"]) and weight.grad is None and adam.state[weight]["step"] == 1
    assert engine.scaler.scale == 2.0**15


def test_an_overflow_that_no_scale_helps_is_named():
    scaler = Scaler(scale=4.0)
    assert [scaler.seen(float("inf")) for _ in range(2)] == [False, False]
    with pytest.raises(DivergedError, match=r"norm is nan at a loss scale of 1, so this is no overflow.*train\.precision=bf16 or fp32"):
        scaler.seen(float("nan"))


def test_autoencoders_are_not_run_in_float16():
    product = torch.ones(2, 2)
    for precision, kinds in (("fp32", "float32 float32"), ("bf16", "bfloat16 bfloat16"), ("fp16", "float16 float32")):
        engine, found = Engine("cpu", precision), []
        for block in (engine.precision(), engine.decoding()):
            with block:
                found.append(str((product @ product).dtype).removeprefix("torch."))
        assert " ".join(found) == kinds


def test_skipped_updates_are_counted_and_a_resumed_run_is_the_unbroken_one(tmp_path, monkeypatch):
    backward = Engine.backward

    def overflowing(self, loss, last):
        overflowing.calls += 1
        backward(self, loss * float("inf") if overflowing.calls == 2 else loss, last)

    folders = {}
    monkeypatch.setattr(Engine, "backward", overflowing)
    for name, first in (("whole", 4), ("broken", 2)):
        overflowing.calls, folders[name] = 0, tmp_path / name
        api.run("toy/ddpo", [*OVERRIDES, f"train.iterations={first}", "save.every=1"], folder=folders[name])
    api.resume(folders["broken"], 4)
    rows = [json.loads(line) for line in (folders["whole"] / "metrics.jsonl").read_text().splitlines()]
    names = ("train/skipped_updates", "train/loss_scale", "train/loss")
    told = {name: [row["value"] for row in rows if row["name"] == name] for name in names}
    assert told["train/skipped_updates"][0] == 1 and sum(told["train/skipped_updates"]) == 1
    assert told["train/loss_scale"] == [2.0**15] * 4
    assert all(abs(loss) < 100 for loss in told["train/loss"])
    states = [checkpoint.load(checkpoint.latest(folder / "checkpoints")) for folder in folders.values()]
    for part in ("trainable", "optimizer", "scaler"):
        assert str(states[0][part]) == str(states[1][part])


def test_an_update_that_nobody_teaches_is_no_fault():
    engine, weight = Engine("cpu", "fp16"), torch.nn.Parameter(torch.ones(2))
    before = engine.scaler.scale
    assert engine.update(torch.optim.AdamW([weight], lr=0.1), [weight], 1.0) == 0.0
    assert torch.equal(weight, torch.ones(2)) and engine.scaler.scale == before
