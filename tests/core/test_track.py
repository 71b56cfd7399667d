"""Trackers: the file that is always written, and those that listen to events."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tropism import api
from tropism.track import Metrics, Trackio, WandB

TINY = ["train.iterations=2", "rollout.samples=8", "rollout.batch=8", "train.micro=80", "evaluate.per_prompt=4", "evaluate.every=2"]


def test_metrics_are_one_json_object_a_line_with_the_promised_keys(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.write(3, 192, 1.23456, {"a": 0.1, "b": 2.0})
    rows = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert rows == [
        {"step": 3, "samples": 192, "seconds": 1.235, "name": "a", "value": 0.1},
        {"step": 3, "samples": 192, "seconds": 1.235, "name": "b", "value": 2.0},
    ]


def test_metrics_go_back_to_where_a_checkpoint_left_them(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.write(1, 1, 0.0, {"kept": 1.0})
    size = metrics.size
    metrics.write(2, 2, 0.0, {"forgotten": 1.0})
    metrics.rewind(size)
    assert "forgotten" not in metrics.path.read_text() and metrics.size == size
    with pytest.raises(ValueError, match="the file was cut"):
        metrics.rewind(size + 1)


def test_tensorboard_gets_every_number_of_a_run(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, _ = api.run("toy/ddpo", [*TINY, "track=[{use: tensorboard}]"], folder=tmp_path / "run")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert set(events.Tags()["scalars"]) == {row["name"] for row in rows}
    written = {(e.step, round(e.value, 5)) for e in events.Scalars("reward/toy/near")}
    assert written == {(row["step"], round(row["value"], 5)) for row in rows if row["name"] == "reward/toy/near"}


class Service:
    """Stands in for wandb or trackio: remembers what it was told."""

    def __init__(self) -> None:
        self.begun: dict[str, object] = {}
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.ended: object = None
        self.util = SimpleNamespace(generate_id=lambda: "id-1")

    def init(self, **given: object) -> None:
        self.begun = given

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values))

    def finish(self, exit_code: int | None = None) -> None:
        self.ended = "finished" if exit_code is None else exit_code


def test_wandb_goes_on_under_the_id_that_the_run_folder_keeps(tmp_path: Path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)  # type: ignore[arg-type]
    tracker = WandB(project="p")
    run = SimpleNamespace(folder=tmp_path, recipe=SimpleNamespace(model_dump=lambda mode: {"name": "a"}))
    tracker.on_run_start(run)
    assert service.begun["id"] == "id-1" and service.begun["project"] == "p" and (tmp_path / "wandb.id").read_text() == "id-1"
    service.util.generate_id = lambda: "id-2"
    tracker.on_run_start(run)
    assert service.begun["id"] == "id-1"
    tracker.on_metrics(4, {"x": 1.0})
    tracker.on_run_end("failed")
    assert service.rows == [(4, {"x": 1.0})] and service.ended == 1


def test_trackio_is_told_the_recipe_and_the_numbers(tmp_path: Path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "trackio", service)  # type: ignore[arg-type]
    tracker = Trackio()
    tracker.on_run_start(SimpleNamespace(folder=tmp_path, recipe=SimpleNamespace(model_dump=lambda mode: {"name": "a"})))
    tracker.on_metrics(1, {"x": 2.0})
    tracker.on_run_end()
    assert service.begun["config"] == {"name": "a"} and service.rows == [(1, {"x": 2.0})] and service.ended == "finished"
