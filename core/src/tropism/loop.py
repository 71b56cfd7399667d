"""THE loop: take what is to be learned from, update; evaluate, checkpoint, stop. Everything else is a part that it calls.

What is learned from is a rollout (:mod:`tropism.rollouts`: collect, score, credit) or judged media (:mod:`tropism.offline`).

A run is exact: killed at any moment and resumed, it gives bit for bit the weights, the optimizer state and the metrics of an unbroken one.
So all that changes is in :mod:`tropism.state`, every random choice follows from the seed and a counter, and what a killed run wrote after
its last checkpoint is forgotten. Several processes each make and learn from a part of the samples; the scores and the gradients meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pluggy
import torch

from tropism import assemble, checkpoint, sampling, state
from tropism.clock import Clock
from tropism.diffusion.noise import sample_seed
from tropism.errors import DivergedError
from tropism.evaluate import Estimate, alarms
from tropism.gallery import drop_samples, save_samples
from tropism.guard import Guard
from tropism.offline import Offline
from tropism.optimizers.base import seeds as seeds_of
from tropism.plugins import Catalog, views
from tropism.policies.cache import Conditions
from tropism.progress import Progress
from tropism.recipe import Recipe
from tropism.rollouts import Rollouts
from tropism.runfolder import write_summary
from tropism.scale.engine import Engine, default_device
from tropism.scale.network import prepared
from tropism.scale.processes import Processes
from tropism.scale.shards import gathered
from tropism.scale.spread import merged
from tropism.stop import Stop
from tropism.track import Metrics
from tropism.types import Rollout


class Run:
    """A recipe with its policy, its state and its folder."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        plugins: pluggy.PluginManager,
        catalog: Catalog,
        progress: Progress,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or Processes()
        self.recipe, self.folder, self.plugins, self.progress = recipe, folder, plugins, progress
        parts = assemble.check(recipe, catalog)
        self.sampler, self.credit, self.optimizer = parts.sampler, parts.credit, parts.optimizer
        self.evaluation_sampler, self.steering = parts.evaluation_sampler, parts.steering
        self.heldout_items = parts.heldout
        self.train_items = [] if recipe.offline else parts.train
        torch.manual_seed(recipe.seed)  # the adapter's first weights
        self.engine = Engine(recipe.device or default_device(), recipe.train.precision, recipe.train.deterministic, self.processes)
        self.policy = assemble.make(catalog, "policies", recipe.policy)
        self.trainable = prepared(recipe, self.engine, self.policy)
        self.torch_optimizer = torch.optim.AdamW(
            self.trainable.parameters.values(), lr=recipe.train.lr, weight_decay=recipe.train.weight_decay
        )
        self.optimizer.attach(self.trainable)
        self.combined, self.watched = assemble.rewards(recipe, catalog)
        self.rewards = {**{part.name: part.reward for part in self.combined.parts}, **self.watched}  # all that an evaluation asks
        for reward in self.rewards.values():
            self.engine.place(reward)
        self.evaluators = [assemble.make(catalog, "evaluators", part) for part in recipe.evaluate.evaluators]
        self.views = views(catalog)
        for part in recipe.track if self.processes.main else ():
            plugins.register(assemble.make(catalog, "trackers", part), f"tracker {part.use}")
        self.conditions = Conditions(self.policy)
        for evaluator in self.evaluators:
            if hasattr(evaluator, "attach"):
                evaluator.attach(self, catalog)
        self.source = Offline(self, parts) if recipe.offline else Rollouts(self, parts)
        self.metrics = Metrics(folder / "metrics.jsonl")
        self.step = 0  # iterations done
        self.clock, self.guard = Clock(self.engine.synchronize), Guard(recipe.guard)
        self.evaluations: list[tuple[int, dict[str, list[float]]]] = []
        self.alarms: list[dict[str, Any]] = []
        self.base: Rollout | None = None  # the base model's evaluation samples

    # --- the loop -----------------------------------------------------------------------------------------------------------

    def train(self) -> str:
        """Run to the end, or until asked to stop. Returns ``finished``, ``guarded`` or ``interrupted``."""
        status, recipe, train, stopping = "failed", self.recipe, self.recipe.train, False
        self.plugins.hook.on_run_start(run=self)
        try:
            with Stop(tell=self.processes.main) as stop:
                if not self.evaluations:
                    self.evaluate()
                while self.step < train.iterations and not self.guard.tripped(self.evaluations):
                    if stopping := self.processes.any(stop.asked):
                        break
                    material = self.source.take()
                    numbers = merged(self.processes.every(self.update(material)))
                    self.step += 1
                    self.log({**material.numbers, **numbers})
                    self.progress.scored(self.step, {name: Estimate.of(v).as_list() for name, v in material.scores.items()}, numbers)
                    if self.step % recipe.evaluate.every == 0 or self.step == train.iterations:
                        self.evaluate()
                    if self.step % recipe.save.every == 0 or self.step == train.iterations:
                        self.save()
                if stopping:
                    self.save()
                    self.progress.say(f"stopped as asked; everything up to iteration {self.step} is saved")
            self.source.told()
            status = "interrupted" if stopping else "guarded" if self.guard.tripped(self.evaluations) else "finished"
            if status == "guarded":
                self.go_back()
        finally:
            if self.processes.main:
                write_summary(self, status)
            self.plugins.hook.on_run_end(run=self, status=status)
        return status

    # --- its phases ---------------------------------------------------------------------------------------------------------

    def update(self, material: sampling.Material) -> dict[str, float]:
        """One pass or more over the material; the mean of what the optimizer logs. Raises DivergedError that names step and samples."""
        part, logged, norms = self.recipe.train, list[dict[str, torch.Tensor]](), list[float]()
        with self.phase("update"):
            for settings in self.torch_optimizer.param_groups:
                settings["lr"] = part.rate(self.step)
            first, skipped = 0, 0
            for number in range(self.step * part.passes, (self.step + 1) * part.passes):
                key = sample_seed(self.recipe.seed, number)
                for group in material.batches(key):
                    begin = len(logged)
                    for batch in group:
                        with self.engine.precision():
                            loss, numbers = self.optimizer.loss(self.policy, batch)
                        self.engine.backward(loss * batch.share, last=batch is group[-1])
                        if batch.share:  # else it only keeps the others company
                            logged.append({"loss": loss.detach(), **numbers})
                        self.progress.advance(len(batch.sample))
                    try:
                        norm = self.engine.update(self.torch_optimizer, self.trainable.parameters.values(), part.max_norm)
                    except DivergedError as error:
                        # Not saved: parts of this iteration are done, and a checkpoint of them could not be resumed exactly.
                        seeds = list(dict.fromkeys(seed for batch in group for seed in seeds_of(batch)))
                        raise DivergedError(
                            f"iteration {self.step + 1}: {error}; samples with seeds {seeds[:8]}; checkpoints before it are untouched"
                        ) from error
                    if norm is None:  # float16 overflowed: what this update would have logged may be infinite too
                        del logged[begin:]
                        skipped += 1
                        continue
                    first = first or len(logged)
                    norms.append(norm)
                    self.trainable.update_average()
                    self.optimizer.updated()
            self.optimizer.finished()
            found = {**_means(logged, first), "train/grad_norm": sum(norms) / max(len(norms), 1), "train/lr": part.rate(self.step)}
            if self.engine.scaler is not None:
                found |= {"train/skipped_updates": float(skipped), "train/loss_scale": self.engine.scaler.scale}
            return found

    def evaluate(self) -> dict[str, Estimate]:
        """Sample held-out prompts with fixed seeds, score them by everything, log, and save the samples."""
        with self.phase("evaluate"):
            if self.base is None:
                with self.trainable.reference():
                    self.base = sampling.evaluation(self)
            with self.trainable.averaged():
                samples = sampling.evaluation(self) if self.step else self.base
            found = sampling.measured(self, samples, self.base)
            weights = {part.name: part.weight for part in self.combined.parts}
            if self.evaluations:
                before = {name: Estimate(*values) for name, values in self.evaluations[0][1].items()}
                signs = {name: 1.0 for name in found if name.endswith("diversity")}
                signs |= {part.use: -1.0 if part.better == "lower" else 1.0 for part in self.recipe.evaluate.rewards}
                self.alarms.extend({"step": self.step, "text": text} for text in alarms(weights.items(), signs.items(), before, found))
            self.evaluations.append((self.step, {name: estimate.as_list() for name, estimate in found.items()}))
            self.guard.remember(self.step, gathered(self.trainable.state_dict(), self.recipe.guard is not None), self.evaluations)
            folder = Path(self.processes.from_main(lambda: str(save_samples(self, samples, self.recipe.evaluate.show))))
        numbers = {
            f"eval/{name}{end}": value for name, e in found.items() for end, value in zip(("", "/low", "/high"), e.as_list(), strict=True)
        }
        self.log(numbers)
        self.progress.evaluated(self.step, {name: estimate.as_list() for name, estimate in found.items()})
        self.plugins.hook.on_evaluate(run=self, step=self.step, folder=folder)
        return found

    # --- smaller pieces -----------------------------------------------------------------------------------------------------

    def go_back(self) -> None:
        """To the last evaluated weights that the guard accepts: they, with their samples, are the end of the run."""
        if self.guard.ended_at is not None:
            return
        good = self.guard.end(self.step)
        self.trainable.load_state_dict(good["trainable"])
        self.evaluations = [(step, values) for step, values in self.evaluations if step <= good["step"]]
        if self.processes.main:
            drop_samples(self.folder, good["step"])
        self.progress.say(f"guard: back to the weights of iteration {good['step']}")
        self.save()

    def log(self, values: dict[str, float]) -> None:
        if not self.processes.main:
            return
        samples = self.step * self.recipe.rollout.samples
        self.metrics.write(self.step, samples, self.clock.elapsed(), values)
        self.plugins.hook.on_metrics(run=self, step=self.step, metrics=values)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.progress.phase(name, self.step)
        with self.clock.phase(name):
            yield

    def save(self) -> Path:
        with self.phase("save"):
            root = self.folder / "checkpoints"
            path = checkpoint.step_folder(root, self.step)
            whole = gathered(state.of(self), self.processes.main)
            folder = Path(self.processes.from_main(lambda: str(checkpoint.save(path, whole))))
            if self.processes.main:
                checkpoint.prune(root, self.recipe.save.keep)
        self.plugins.hook.on_checkpoint(run=self, folder=folder)
        return folder


def _means(logged: list[dict[str, torch.Tensor]], first: int) -> dict[str, float]:
    """The mean of every number over the batches that gave it; and the largest error of a ratio in the ``first`` batches, which are those
    of the first update, before which no weight has changed."""
    names = dict.fromkeys(name for numbers in logged for name in numbers)
    means = {f"train/{name}": torch.stack([n[name].float() for n in logged if name in n]).mean().item() for name in names}
    ratios = [n["ratio_error"] for n in logged[:first] if "ratio_error" in n]
    return {**means, "train/first_ratio_error": torch.stack(ratios).max().item() if ratios else 0.0}
