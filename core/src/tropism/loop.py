"""THE loop: collect, score, credit, update; evaluate, checkpoint, stop. Everything else is a part that it calls.

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
from tropism.data.prompts import Order
from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.noise import sample_seed
from tropism.engine import Engine, default_device
from tropism.errors import DivergedError, RewardError, TropismError
from tropism.evaluate import Estimate, alarms
from tropism.even import evened, filling
from tropism.gallery import drop_samples, save_samples
from tropism.guard import Guard
from tropism.judges import Judge
from tropism.network import prepared
from tropism.optimizers.base import plan
from tropism.optimizers.base import seeds as seeds_of
from tropism.plugins import Catalog, views
from tropism.policies.cache import Conditions
from tropism.processes import Processes
from tropism.progress import Progress
from tropism.recipe import Recipe
from tropism.rewards.slices import raw_scores
from tropism.runfolder import write_summary
from tropism.shards import gathered
from tropism.siblings import equal_share
from tropism.spread import handed_out, joined, merged, own_samples
from tropism.stop import Stop
from tropism.track import Metrics
from tropism.types import Condition, Rollout


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
        self.evaluation_sampler = parts.evaluation_sampler
        self.train_items, self.heldout_items = parts.train, parts.heldout
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
        self.order = Order(len(self.train_items), recipe.seed)
        size, rollout = self.processes.size, recipe.rollout
        self.places = [own_samples(rollout.samples, recipe.train.updates, rank, size) for rank in range(size)]  # of a rollout's samples
        self.mine = self.places[self.processes.rank]
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
                    rollout = self.score(self.collect())
                    rollout, whole = self.credited(rollout)
                    self.plugins.hook.on_rollout(run=self, rollout=rollout)
                    numbers = merged(self.processes.every(self.update(rollout)))
                    self.step += 1
                    self.log({**self.summary_of(whole), **numbers})
                    self.progress.scored(self.step, {name: Estimate.of(v).as_list() for name, v in whole.scores.items()})
                    if self.step % recipe.evaluate.every == 0 or self.step == train.iterations:
                        self.evaluate()
                    if self.step % recipe.save.every == 0 or self.step == train.iterations:
                        self.save()
                if stopping:
                    self.save()
                    self.progress.say(f"stopped as asked; everything up to iteration {self.step} is saved")
            status = "interrupted" if stopping else "guarded" if self.guard.tripped(self.evaluations) else "finished"
            if status == "guarded":
                self.go_back()
        finally:
            if self.processes.main:
                write_summary(self, status)
            self.plugins.hook.on_run_end(run=self, status=status)
        return status

    # --- its phases ---------------------------------------------------------------------------------------------------------

    def collect(self) -> Rollout:
        """Sample this process's part of ``rollout.samples`` samples of the next prompts, in batches."""
        part, parts = self.recipe.rollout, []
        with self.phase("rollout"):
            cond = sampling.encoded(self, self.upcoming().pick(self.mine))
            window, elsewhere, kept = part.window, None, self.optimizer.kept(part.steps)
            if window is not None:
                kept, elsewhere = window.at(part.steps, self.step, self.recipe.seed), Ode() if window.elsewhere == "ode" else None
            for begin in range(0, len(cond), part.batch):
                with self.optimizer.acting():
                    batch = cond.slice(begin, begin + part.batch)
                    start = sampling.shared_start(batch, self.recipe.seed) if part.start == "group" else None
                    parts.append(sampling.batch(self, batch, self.sampler, part.steps, kept, elsewhere, start))
                self.progress.advance(part.batch * self.processes.size)
        return Rollout.cat(parts)

    def score(self, rollout: Rollout) -> Rollout:
        """The rollout with its raw scores, without its media."""
        with self.phase("score"):
            fault = None
            try:
                rewards = {part.name: part.reward for part in self.combined.parts}
                # All are scored before any is normalised: a reward that fails must leave the running statistics as they were.
                rollout.scores = raw_scores(rewards, rollout, self.recipe.rollout.batch, self.engine.device)
            except RewardError as error:
                fault = error
            try:
                self.processes.agree(fault)
            except TropismError as error:
                self.save()
                raise type(error)(f"iteration {self.step + 1}: {error}; everything before it is saved") from error
        return rollout.drop_media()

    def credited(self, rollout: Rollout) -> tuple[Rollout, Rollout]:
        """The rollout with rewards and advantages, which follow from the scores of all processes; and the rollout of all, without states.

        Where there is one process, they are the same.
        """
        whole = self.combined.combine(joined(self.upcoming(), rollout, self.places, self.processes))
        whole.advantage = self.credit(whole)
        own = handed_out(whole, rollout, self.mine)
        if isinstance(self.credit, Judge):
            own.couples = self.credit.couples(own)  # siblings are in one process
        return own, whole

    def update(self, rollout: Rollout) -> dict[str, float]:
        """One pass or more over the rollout; the mean of what the optimizer logs. Raises DivergedError that names step and samples."""
        part, logged, norms = self.recipe.train, list[dict[str, torch.Tensor]](), list[float]()
        with self.phase("update"):
            if rollout.advantage is not None:
                rollout.advantage = rollout.advantage.to(rollout.x0.device)
            for settings in self.torch_optimizer.param_groups:
                settings["lr"] = part.rate(self.step)
            micro, first, skipped = part.micro or self.recipe.rollout.batch, 0, 0
            for number in range(self.step * part.passes, (self.step + 1) * part.passes):
                key = sample_seed(self.recipe.seed, number)
                planned = plan(self.optimizer, rollout, self.sampler, part.updates, micro, key, self.combined.value)
                if self.engine.sharded is not None:
                    planned = evened(planned, filling(self.optimizer, rollout, self.sampler, key, self.combined.value), self.processes)
                for group in planned:
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
                names = [*self.watched, *(name for name in found if name.endswith("diversity"))]
                self.alarms.extend({"step": self.step, "text": text} for text in alarms(weights.items(), names, before, found))
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

    def upcoming(self) -> Condition:
        """What this iteration's samples, of all processes, are conditioned on; not yet encoded."""
        part = self.recipe.rollout
        picked = self.order.take(self.step * (part.samples // part.group), part.samples // part.group)
        items = [self.train_items[index] for index in picked for _ in range(part.group)]
        return sampling.condition(items, self.recipe.seed, self.step * part.samples, part.group)

    def summary_of(self, rollout: Rollout) -> dict[str, float]:
        assert rollout.reward is not None and rollout.advantage is not None
        numbers = {f"reward/{name}": values.mean().item() for name, values in rollout.scores.items()}
        numbers["train/zero_advantage_share"] = (rollout.advantage == 0).float().mean().item()
        if self.recipe.rollout.group > 1:
            numbers["train/equal_groups_share"] = equal_share(rollout.reward, rollout.cond.group)
        return {**numbers, "reward/combined": rollout.reward.mean().item()}

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
