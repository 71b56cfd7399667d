"""Where numbers go: ``metrics.jsonl`` always, and trackers that listen to the run's events."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.hookspecs import hookimpl

if TYPE_CHECKING:
    from tropism.loop import Run


class Metrics:
    """An append-only ``metrics.jsonl`` that can go back to where a checkpoint left it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, step: int, samples: int, seconds: float, values: Mapping[str, float]) -> None:
        """One line per value, flushed together."""
        lines = "".join(
            json.dumps({"step": step, "samples": samples, "seconds": round(seconds, 3), "name": name, "value": value}) + "\n"
            for name, value in values.items()
        )
        with self.path.open("a") as file:
            file.write(lines)

    @property
    def size(self) -> int:
        """Bytes written; a checkpoint stores it."""
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, size: int) -> None:
        """Forget what was written after a checkpoint, so that a resumed run writes it again, once."""
        if self.size < size:
            raise ValueError(f"{self.path} has {self.size} bytes, but the checkpoint was taken at {size}; the file was cut")
        if self.path.exists():
            os.truncate(self.path, size)


class TensorBoard:
    """Scalars as TensorBoard event files under ``tensorboard/`` in the run folder."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make: Any = SummaryWriter
        self._writer: Any = None

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        # purge_step hides what a killed run wrote after its last checkpoint.
        self._writer = self._make(str(run.folder / "tensorboard"), purge_step=run.step)

    @hookimpl
    def on_metrics(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    @hookimpl
    def on_run_end(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandB:
    """Weights & Biases; the run's id is kept in its folder so that a resumed run goes on in the same curves."""

    def __init__(self, project: str = "tropism") -> None:
        import wandb

        self._wandb: Any = wandb
        self.project = project

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        mark = run.folder / "wandb.id"
        if not mark.exists():
            mark.write_text(self._wandb.util.generate_id())
        config = run.recipe.model_dump(mode="json")
        self._wandb.init(
            project=self.project, id=mark.read_text(), resume="allow", dir=str(run.folder), name=run.folder.name, config=config
        )

    @hookimpl
    def on_metrics(self, step: int, metrics: dict[str, float]) -> None:
        self._wandb.log(metrics, step=step)

    @hookimpl
    def on_run_end(self, status: str) -> None:
        self._wandb.finish(exit_code=1 if status == "failed" else 0)


class Trackio:
    """trackio: local first, the interface of Weights & Biases."""

    def __init__(self, project: str = "tropism") -> None:
        import trackio

        self._trackio: Any = trackio
        self.project = project

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        self._trackio.init(project=self.project, name=run.folder.name, resume="allow", config=run.recipe.model_dump(mode="json"))

    @hookimpl
    def on_metrics(self, step: int, metrics: dict[str, float]) -> None:
        self._trackio.log(metrics, step=step)

    @hookimpl
    def on_run_end(self) -> None:
        self._trackio.finish()
