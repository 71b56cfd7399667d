"""What a run must remember, and how it takes that up again: a resumed run is the unbroken one to the bit.

Not in it, because they follow from a seed and a counter: which prompts come next and all noise. (Where a data set stands does not: bad rows
have been passed over.) The global random states are the main
process's; nothing that tropism draws uses them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism import checkpoint
from tropism.errors import CheckpointError, TropismError
from tropism.scale.shards import like_all, optimizer_state

if TYPE_CHECKING:
    from tropism.loop import Run


def of(run: Run) -> dict[str, Any]:
    """All that changes in a run, as a tree for a checkpoint."""
    return {
        "step": run.step,
        "trainable": run.trainable.state_dict(),
        "optimizer": run.torch_optimizer.state_dict(),
        "algorithm": run.optimizer.state_dict(),
        "combined": run.combined.state_dict(),
        "credit": run.credit.state_dict(),
        "source": run.source.state_dict(),
        "random": run.engine.random_state(),
        "scaler": None if run.engine.scaler is None else run.engine.scaler.state_dict(),
        "metrics": run.metrics.size,
        **run.clock.state_dict(),
        "evaluations": run.evaluations,
        "alarms": run.alarms,
        "guard": run.guard.state_dict(),
    }


def restore(run: Run) -> None:
    """Take up the newest whole checkpoint; without one, begin at the beginning."""
    found = run.processes.from_main(lambda: str(checkpoint.latest(run.folder / "checkpoints") or ""))
    newest = Path(found)
    if not found:
        if run.processes.main:
            run.metrics.rewind(0)
        return
    state = checkpoint.load(newest)
    try:
        run.trainable.load_state_dict(state["trainable"])
        run.torch_optimizer.load_state_dict(optimizer_state(state["optimizer"], list(run.trainable.parameters.values())))
        run.optimizer.load_state_dict(like_all(state["algorithm"], run.optimizer.state_dict()))
        run.combined.load_state_dict(state["combined"])
        run.credit.load_state_dict(state["credit"])
        run.source.load_state_dict(state.get("source", {}))
        run.guard.load_state_dict(state["guard"])
        run.engine.load_random_state(state["random"])
        if run.engine.scaler is not None and (scaler := state.get("scaler")):
            run.engine.scaler.load_state_dict(scaler)
        run.clock.load_state_dict(state)
        if run.processes.main:
            run.metrics.rewind(state["metrics"])
        run.step, run.alarms = state["step"], state["alarms"]
        run.evaluations = [(step, values) for step, values in state["evaluations"]]
    except (KeyError, ValueError, TropismError) as error:
        raise CheckpointError(f"checkpoint {newest} does not fit this recipe: {error}") from error
    run.progress.say(f"resumed at iteration {run.step} from {newest.name}")
