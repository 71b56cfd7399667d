"""THE loop: collect, score, credit, update; evaluate, checkpoint, stop. Everything else is a part that it calls.

A run is exact: killed at any moment and resumed, it gives bit for bit the weights, the optimizer state and the metrics of an unbroken one.
So all that changes lives in ``state_dict``, every random choice follows from the seed and a counter, and what a killed run wrote after its
last checkpoint is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pluggy
import torch

from tropism import assemble, checkpoint
from tropism.clock import Clock
from tropism.data.prompts import Order
from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.noise import sample_seed
from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import Sampler
from tropism.engine import Engine, default_device
from tropism.errors import CheckpointError, DivergedError, RewardError, TropismError
from tropism.evaluate import Estimate, alarms, measure
from tropism.gallery import drop_samples, save_samples
from tropism.guard import Guard
from tropism.optimizers.base import plan
from tropism.plugins import Catalog, views
from tropism.policies.adapters import Lora, Trainable
from tropism.policies.cache import Conditions
from tropism.progress import Progress
from tropism.recipe import Recipe
from tropism.rewards.slices import raw_scores
from tropism.runfolder import write_summary
from tropism.siblings import equal_share
from tropism.stop import Stop
from tropism.track import Metrics
from tropism.types import Condition, Item, Rollout

EVALUATION_SEED = 2**31  # beyond the seeds a recipe may have, so that evaluation samples share no noise with training


class Run:
    """A recipe with its policy, its state and its folder."""

    def __init__(self, recipe: Recipe, folder: Path, plugins: pluggy.PluginManager, catalog: Catalog, progress: Progress) -> None:
        self.recipe, self.folder, self.plugins, self.progress = recipe, folder, plugins, progress
        parts = assemble.check(recipe, catalog)
        self.sampler, self.credit, self.optimizer = parts.sampler, parts.credit, parts.optimizer
        self.evaluation_sampler = parts.evaluation_sampler
        self.train_items, self.heldout_items = parts.train, parts.heldout
        torch.manual_seed(recipe.seed)  # the adapter's first weights
        self.engine = Engine(recipe.device or default_device(), recipe.train.precision, recipe.train.deterministic)
        self.policy = assemble.make(catalog, "policies", recipe.policy)
        self.engine.place(self.policy)
        network = self.policy.trainable().to(self.engine.device)
        adapter = recipe.adapter
        lora = Lora(adapter.rank, adapter.alpha, adapter.targets) if adapter.kind == "lora" else None
        self.trainable = Trainable(network, lora, adapter.ema)
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
        for part in recipe.track:
            plugins.register(assemble.make(catalog, "trackers", part), f"tracker {part.use}")
        self.conditions = Conditions(self.policy)
        self.order = Order(len(self.train_items), recipe.seed)
        self.metrics = Metrics(folder / "metrics.jsonl")
        self.step = 0  # iterations done
        self.clock, self.guard = Clock(self.engine.synchronize), Guard(recipe.guard)
        self.evaluations: list[tuple[int, dict[str, list[float]]]] = []
        self.alarms: list[dict[str, Any]] = []
        self.base: Rollout | None = None  # the base model's evaluation samples

    # --- the loop -----------------------------------------------------------------------------------------------------------

    def train(self) -> str:
        """Run to the end, or until asked to stop. Returns ``finished``, ``guarded`` or ``interrupted``."""
        status, recipe, train = "failed", self.recipe, self.recipe.train
        self.plugins.hook.on_run_start(run=self)
        try:
            with Stop() as stop:
                if not self.evaluations:
                    self.evaluate()
                while self.step < train.iterations and not stop.asked and not self.guard.tripped(self.evaluations):
                    rollout = self.collect()
                    rollout = self.score(rollout)
                    rollout.advantage = self.credit(rollout)
                    self.plugins.hook.on_rollout(run=self, rollout=rollout)
                    numbers = self.update(rollout)
                    self.step += 1
                    self.log({**self.summary_of(rollout), **numbers})
                    self.progress.scored(self.step, {name: Estimate.of(v).as_list() for name, v in rollout.scores.items()})
                    if self.step % recipe.evaluate.every == 0 or self.step == train.iterations:
                        self.evaluate()
                    if self.step % recipe.save.every == 0 or self.step == train.iterations:
                        self.save()
                if stop.asked:
                    self.save()
                    self.progress.say(f"stopped as asked; everything up to iteration {self.step} is saved")
            status = "interrupted" if stop.asked else "guarded" if self.guard.tripped(self.evaluations) else "finished"
            if status == "guarded":
                self.go_back()
        finally:
            write_summary(self, status)
            self.plugins.hook.on_run_end(run=self, status=status)
        return status

    # --- its phases ---------------------------------------------------------------------------------------------------------

    def collect(self) -> Rollout:
        """Sample ``rollout.samples`` samples of the next prompts, in batches."""
        part, parts = self.recipe.rollout, []
        with self.phase("rollout"):
            picked = self.order.take(self.step * (part.samples // part.group), part.samples // part.group)
            items = [self.train_items[index] for index in picked for _ in range(part.group)]
            cond = self.condition(items, self.recipe.seed, self.step * part.samples, part.group)
            window, elsewhere, kept = part.window, None, self.optimizer.kept(part.steps)
            if window is not None:
                kept, elsewhere = window.at(part.steps, self.step, self.recipe.seed), Ode() if window.elsewhere == "ode" else None
            for begin in range(0, part.samples, part.batch):
                with self.optimizer.acting():
                    parts.append(self.sample(cond.slice(begin, begin + part.batch), self.sampler, part.steps, kept, elsewhere))
                self.progress.advance(part.batch)
        return Rollout.cat(parts)

    def score(self, rollout: Rollout) -> Rollout:
        with self.phase("score"):
            try:
                rewards = {part.name: part.reward for part in self.combined.parts}
                # All are scored before any is normalised: a reward that fails must leave the running statistics as they were.
                rollout.scores = raw_scores(rewards, rollout, self.recipe.rollout.batch, self.engine.device)
                return self.combined.combine(rollout).drop_media()
            except RewardError as error:
                self.save()
                raise RewardError(f"iteration {self.step + 1}: {error}; everything before it is saved") from error

    def update(self, rollout: Rollout) -> dict[str, float]:
        """One pass or more over the rollout; the mean of what the optimizer logs. Raises DivergedError that names step and samples."""
        part, logged, norms = self.recipe.train, list[dict[str, torch.Tensor]](), []
        with self.phase("update"):
            if rollout.advantage is not None:
                rollout.advantage = rollout.advantage.to(rollout.x0.device)
            micro, first = part.micro or self.recipe.rollout.batch, 0
            for number in range(self.step * part.passes, (self.step + 1) * part.passes):
                key = sample_seed(self.recipe.seed, number)
                for group in plan(self.optimizer, rollout, self.sampler, part.updates, micro, key, self.combined.value):
                    for batch in group:
                        with self.engine.precision():
                            loss, numbers = self.optimizer.loss(self.policy, batch)
                        (loss * batch.share).backward()
                        logged.append({"loss": loss.detach(), **numbers})
                        self.progress.advance(len(batch.sample))
                    first = first or len(logged)
                    try:
                        norms.append(self.engine.update(self.torch_optimizer, self.trainable.parameters.values(), part.max_norm))
                    except DivergedError as error:
                        # Not saved: parts of this iteration are done, and a checkpoint of them could not be resumed exactly.
                        seeds = rollout.cond.seed[torch.cat([batch.sample for batch in group]).unique().cpu()].tolist()
                        raise DivergedError(
                            f"iteration {self.step + 1}: {error}; samples with seeds {seeds[:8]}; checkpoints before it are untouched"
                        ) from error
                    self.trainable.update_average()
                    self.optimizer.updated()
            self.optimizer.finished()
            return {**_means(logged, first), "train/grad_norm": sum(norms) / len(norms)}

    def evaluate(self) -> dict[str, Estimate]:
        """Sample held-out prompts with fixed seeds, score them by everything, log, and save the samples."""
        with self.phase("evaluate"):
            if self.base is None:
                with self.trainable.reference():
                    self.base = self.evaluation_samples()
            with self.trainable.averaged():
                samples = self.evaluation_samples() if self.step else self.base
            found = measure(samples, self.base, self.evaluators)
            weights = {part.name: part.weight for part in self.combined.parts}
            if self.evaluations:
                before = {name: Estimate(*values) for name, values in self.evaluations[0][1].items()}
                names = [*self.watched, *(name for name in found if name.endswith("diversity"))]
                self.alarms.extend({"step": self.step, "text": text} for text in alarms(weights.items(), names, before, found))
            self.evaluations.append((self.step, {name: estimate.as_list() for name, estimate in found.items()}))
            self.guard.remember(self.step, self.trainable.state_dict(), self.evaluations)
            folder = save_samples(self, samples, self.recipe.evaluate.show)
        numbers = {
            f"eval/{name}{end}": value for name, e in found.items() for end, value in zip(("", "/low", "/high"), e.as_list(), strict=True)
        }
        self.log(numbers)
        self.progress.evaluated(self.step, {name: estimate.as_list() for name, estimate in found.items()})
        self.plugins.hook.on_evaluate(run=self, step=self.step, folder=folder)
        return found

    # --- smaller pieces -----------------------------------------------------------------------------------------------------

    def condition(self, items: list[Item], seed: int, first: int, group: int) -> Condition:
        """Conditions for samples number first, first + 1, ... of a stream of samples."""
        seeds = torch.tensor([sample_seed(seed, first + index) for index in range(len(items))])
        siblings = torch.arange(first, first + len(items)) // group
        return Condition(items=items, encoded=self.conditions.encode(items), seed=seeds, group=siblings)

    def sample(self, cond: Condition, sampler: Sampler, steps: int, kept: range, elsewhere: Sampler | None = None) -> Rollout:
        """One batch with the steps ``kept`` of its trajectory.

        Its media are on the CPU: those of a whole rollout may be more than the device has room for.
        """
        with self.engine.precision():
            rollout = collect(self.policy, cond, sampler, steps, kept=kept, elsewhere=elsewhere, means=self.optimizer.means)
            with torch.no_grad():
                rollout.media = {kind: media.cpu() for kind, media in self.policy.decode(rollout.x0).items()}
        return rollout

    def evaluation_samples(self) -> Rollout:
        """The evaluation's samples, scored."""
        part = self.recipe.evaluate
        chosen = self.heldout_items[: part.prompts]
        items = [item for item in chosen for _ in range(part.per_prompt)]
        return self.scored(self.condition(items, EVALUATION_SEED, 0, part.per_prompt))

    def scored(self, cond: Condition) -> Rollout:
        """Samples, without trajectories, made as the evaluation makes them, scored raw by the trained and the watched rewards."""
        batch, steps, parts = self.recipe.rollout.batch, self.recipe.evaluate.steps or self.recipe.rollout.steps, []
        for begin in range(0, len(cond), batch):
            parts.append(self.sample(cond.slice(begin, begin + batch), self.evaluation_sampler, steps, range(0)))
            self.progress.advance(batch)
        samples = Rollout.cat(parts)
        samples.scores = raw_scores(self.rewards, samples, batch, self.engine.device)
        return samples

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
        drop_samples(self.folder, good["step"])
        self.progress.say(f"guard: back to the weights of iteration {good['step']}")
        self.save()

    def log(self, values: dict[str, float]) -> None:
        samples = self.step * self.recipe.rollout.samples
        self.metrics.write(self.step, samples, self.clock.elapsed(), values)
        self.plugins.hook.on_metrics(run=self, step=self.step, metrics=values)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.progress.phase(name, self.step)
        with self.clock.phase(name):
            yield

    # --- state --------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "trainable": self.trainable.state_dict(),
            "optimizer": self.torch_optimizer.state_dict(),
            "algorithm": self.optimizer.state_dict(),
            "combined": self.combined.state_dict(),
            "credit": self.credit.state_dict(),
            "random": self.engine.random_state(),
            "metrics": self.metrics.size,
            **self.clock.state_dict(),
            "evaluations": self.evaluations,
            "alarms": self.alarms,
            "guard": self.guard.state_dict(),
        }

    def save(self) -> Path:
        with self.phase("save"):
            root = self.folder / "checkpoints"
            folder = checkpoint.save(checkpoint.step_folder(root, self.step), self.state_dict())
            checkpoint.prune(root, self.recipe.save.keep)
        self.plugins.hook.on_checkpoint(run=self, folder=folder)
        return folder

    def restore(self) -> None:
        """Take up the newest whole checkpoint; without one, begin at the beginning."""
        newest = checkpoint.latest(self.folder / "checkpoints")
        if newest is None:
            self.metrics.rewind(0)
            return
        state = checkpoint.load(newest)
        try:
            self.trainable.load_state_dict(state["trainable"])
            self.torch_optimizer.load_state_dict(state["optimizer"])
            self.optimizer.load_state_dict(state["algorithm"])
            self.combined.load_state_dict(state["combined"])
            self.credit.load_state_dict(state["credit"])
            self.guard.load_state_dict(state["guard"])
            self.engine.load_random_state(state["random"])
            self.clock.load_state_dict(state)
            self.metrics.rewind(state["metrics"])
            self.step, self.alarms = state["step"], state["alarms"]
            self.evaluations = [(step, values) for step, values in state["evaluations"]]
        except (KeyError, ValueError, TropismError) as error:
            raise CheckpointError(f"checkpoint {newest} does not fit this recipe: {error}") from error
        self.progress.say(f"resumed at iteration {self.step} from {newest.name}")


def _means(logged: list[dict[str, torch.Tensor]], first: int) -> dict[str, float]:
    """The mean of every number over the batches that gave it; and the largest error of a ratio in the ``first`` batches, which are those
    of the first update, before which no weight has changed."""
    names = dict.fromkeys(name for numbers in logged for name in numbers)
    means = {f"train/{name}": torch.stack([n[name].float() for n in logged if name in n]).mean().item() for name in names}
    ratios = [n["ratio_error"] for n in logged[:first] if "ratio_error" in n]
    return {**means, "train/first_ratio_error": torch.stack(ratios).max().item() if ratios else 0.0}
