"""What an online run learns from: samples of its own, scored and credited.

Several processes each make and keep a part of the samples; their scores meet, because credit compares them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tropism import sampling
from tropism.data.prompts import Order
from tropism.diffusion.flow_samplers import Ode
from tropism.errors import RewardError, TropismError
from tropism.judges import Judge
from tropism.optimizers.base import Batch, plan
from tropism.rewards.slices import raw_scores
from tropism.scale.even import evened, filling
from tropism.scale.spread import handed_out, joined, own_samples
from tropism.siblings import equal_share
from tropism.turning.particles import together
from tropism.types import Condition, Rollout

if TYPE_CHECKING:
    from tropism.assemble import Parts
    from tropism.loop import Run


class Rollouts:
    """Rollouts of a run, one an iteration. Where they stand follows from the run's iteration, so there is nothing to remember."""

    def __init__(self, run: Run, parts: Parts) -> None:
        self.run, self.items = run, parts.train
        self.order = Order(len(self.items), run.recipe.seed)
        size, samples, updates = run.processes.size, run.recipe.rollout.samples, run.recipe.train.updates
        self.places = [own_samples(samples, updates, rank, size) for rank in range(size)]  # of a rollout's samples
        self.mine = self.places[run.processes.rank]

    def take(self) -> sampling.Material:
        """A new rollout, to learn from."""
        own, whole = self.credited(self.score(self.collect()))
        self.run.plugins.hook.on_rollout(run=self.run, rollout=own)
        return sampling.Material(lambda key: self.batches(own, key), summary(whole, self.run.recipe.rollout.group), whole.scores)

    def collect(self) -> Rollout:
        """Sample this process's part of ``rollout.samples`` samples of the next prompts, in batches."""
        run, part, parts = self.run, self.run.recipe.rollout, []
        with run.phase("rollout"):
            cond = sampling.encoded(run, self.upcoming().pick(self.mine))
            window, elsewhere, kept = part.window, None, run.optimizer.kept(part.steps)
            if window is not None:
                kept, elsewhere = window.at(part.steps, run.step, run.recipe.seed), Ode() if window.elsewhere == "ode" else None
            for begin in range(0, len(cond), part.batch):
                with run.optimizer.acting():
                    batch = cond.slice(begin, begin + part.batch)
                    start = sampling.shared_start(batch, run.recipe.seed) if part.start == "group" else None
                    if part.steering:
                        parts.append(together(run, batch))
                    else:
                        parts.append(sampling.batch(run, batch, run.sampler, part.steps, kept, elsewhere, start))
                run.progress.advance(part.batch * run.processes.size)
        return Rollout.cat(parts)

    def score(self, rollout: Rollout) -> Rollout:
        """The rollout with its raw scores, without its media."""
        run = self.run
        with run.phase("score"):
            fault = None
            try:
                rewards = {part.name: part.reward for part in run.combined.parts}
                # All are scored before any is normalised: a reward that fails must leave the running statistics as they were.
                rollout.scores = raw_scores(rewards, rollout, run.recipe.rollout.batch, run.engine.device)
            except RewardError as error:
                fault = error
            try:
                run.processes.agree(fault)
            except TropismError as error:
                run.save()
                raise type(error)(f"iteration {run.step + 1}: {error}; everything before it is saved") from error
        return rollout.drop_media()

    def credited(self, rollout: Rollout) -> tuple[Rollout, Rollout]:
        """The rollout with rewards and advantages, which follow from the scores of all processes; and the rollout of all, without states.

        Where there is one process, they are the same.
        """
        run = self.run
        whole = run.combined.combine(joined(self.upcoming(), rollout, self.places, run.processes))
        whole.advantage = run.credit(whole)
        own = handed_out(whole, rollout, self.mine)
        if isinstance(run.credit, Judge):
            own.couples = run.credit.couples(own)  # siblings are in one process
        return own, whole

    def upcoming(self) -> Condition:
        """What this iteration's samples, of all processes, are conditioned on; not yet encoded."""
        part, seed, step = self.run.recipe.rollout, self.run.recipe.seed, self.run.step
        picked = self.order.take(step * (part.samples // part.group), part.samples // part.group)
        items = [self.items[index] for index in picked for _ in range(part.group)]
        return sampling.condition(items, seed, step * part.samples, part.group)

    def batches(self, rollout: Rollout, key: int) -> list[list[Batch]]:
        """What the optimizer is given of a rollout, for each update of a pass."""
        run, train = self.run, self.run.recipe.train
        if rollout.advantage is not None:
            rollout.advantage = rollout.advantage.to(rollout.x0.device)
        micro, value = train.micro or run.recipe.rollout.batch, run.combined.value
        planned = plan(run.optimizer, rollout, run.sampler, train.updates, micro, key, value)
        if run.engine.sharded is None:
            return planned
        return evened(planned, filling(run.optimizer, rollout, run.sampler, key, value), run.processes)

    def told(self) -> None:
        return

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return


def summary(rollout: Rollout, group: int) -> dict[str, float]:
    """What is logged of a credited rollout."""
    assert rollout.reward is not None and rollout.advantage is not None
    numbers = {f"reward/{name}": values.mean().item() for name, values in rollout.scores.items()}
    numbers["train/zero_advantage_share"] = (rollout.advantage == 0).float().mean().item()
    if group > 1:
        numbers["train/equal_groups_share"] = equal_share(rollout.reward, rollout.cond.group)
    return {**numbers, "reward/combined": rollout.reward.mean().item()}
