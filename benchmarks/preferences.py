"""Methods that learn from preferences side by side, on the shipped flow model.

Two studies. ``online``: D3PO, which is only told which of its samples a hidden reward prefers, against a policy gradient (DDPO's, on the
same SDE steps) that is given that reward, at equal samples. ``offline``: one fixed set of pairs, made once from the base model's samples,
of which a reward prefers one (small files that still fit their prompt); DPO, DPO with safe gradients (SDPO), InPO, SmPO, KTO and, as a
control, DPO with the same pairs whose labels are shuffled, at equal steps and at equal seconds. The judge of the offline study is the same
sum of the true file size and of a scorer that labelled nothing. The baseline is the plain model.

    python benchmarks/preferences.py --results docs/results runs/preferences
    python benchmarks/preferences.py --quick runs/quick                         # a few steps, to see that all of it works

A run that has finished in OUT is used again, one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curves import average, plot
from methods import FLOW, HELD_OUT_REWARD, REWARD, REWARDS, WATCHED, Comparison, Method, refuse_other_weights
from preferences_page import at_seconds, page
from results import write

from tropism import api
from tropism.data.feedback import CHOICES
from tropism.diffusion.noise import sample_seed

BASE = "image/rlcm-align"
MODEL = tuple(change for change in FLOW.changes if not change.startswith("evaluate"))
SHARED = (
    *MODEL,
    "guard=null",
    "evaluate.sampler={use: ode}",
    WATCHED,
    "evaluate.evaluators=[{use: image/diversity}, {use: base-distance}]",
    "save.every=20",
)
HIDDEN = (REWARDS, "rollout.sampler={use: flow-sde, noise: 0.7}")
JUDGED = (
    "rewards=[]",
    "credit={use: batch}",
    "rollout.group=1",
    "rollout.sampler={use: ode}",
    "evaluate.rewards=[{use: image/jpeg-estimate, better: lower}, {use: image/alignment}, {use: image/jpeg-size, better: lower}, "
    "{use: image/alignment-b}]",
)
PAIRS = (
    *MODEL,
    "guard=null",
    REWARDS,
    "rollout.sampler={use: ode}",
    "rollout.group=4",
    "optimizer={use: dpo}",
    "credit={use: best-worst, scale: 0.2}",  # half of what two siblings differ by, so that SmPO has something to tell apart
    "seed=100",  # no run has it
)


@dataclass(frozen=True)
class Study:
    """words: what is compared. judge, label: the metrics. watch: whether ``judge`` was used for labels. changes: to every method."""

    words: str
    judge: str
    label: str
    changes: tuple[str, ...]
    methods: dict[str, Method]


STUDIES = {
    "online": Study(
        "a hidden reward, by its comparisons alone or by its values",
        REWARD,
        REWARD,
        HIDDEN,
        {
            "d3po": Method(
                "D3PO: best against worst of four siblings of one first noise",
                3e-4,
                ("optimizer={use: d3po, beta: 1.0}", "credit={use: best-worst}", "rollout.group=4", "rollout.start=group"),
            ),
            "ddpo": Method(
                "policy gradient with the reward itself, groups of four",
                1e-3,
                (
                    "optimizer={use: policy-gradient, clip: 1e-4, advantage_clip: 10}",
                    "credit={use: group, scale: batch}",
                    "rollout.group=4",
                ),
            ),
        },
    ),
    "offline": Study(
        "one set of pairs, the better one by the reward",
        HELD_OUT_REWARD,
        REWARD,
        JUDGED,
        {
            "dpo": Method("Diffusion-DPO for flows", 1e-3, ("optimizer={use: dpo, beta: 1000, draws: 1}",)),
            "sdpo": Method(
                "DPO whose loser's gradient may not harm the winner", 1e-3, ("optimizer={use: dpo, beta: 1000, draws: 1, keep: 0.7}",)
            ),
            "inpo": Method("InPO: states by inversion of ten levels", 1e-3, ("optimizer={use: inpo, beta: 1000, draws: 1}",)),
            "smpo": Method(
                "SmPO: InPO with soft labels, five levels, each corrected once",
                1e-3,
                ("optimizer={use: smpo, beta: 1000, gamma: 2, draws: 1}",),
            ),
            "kto": Method("Diffusion-KTO: each of a pair on its own, good or bad", 1e-3, ("optimizer={use: kto, beta: 1000, draws: 1}",)),
            "shuffled": Method("control: DPO, labels by the toss of a coin", 1e-3, ("optimizer={use: dpo, beta: 1000, draws: 1}",)),
        },
    ),
}


class Preferences(Comparison):
    """Runs by study, method, learning rate and seed. pairs: how many; steps: of a run; size: samples or pairs of a step."""

    def __init__(self, root: Path, pairs: int, steps: int, size: int, evaluated: int, overrides: Sequence[str]) -> None:
        super().__init__(root, steps, evaluated, overrides)
        self.pairs, self.size = pairs, size

    def changes(self, model: str, method: str, lr: float, seed: int) -> list[str]:
        study = STUDIES[model]
        fixed = [*SHARED, *study.changes, *study.methods[method].changes, f"train.lr={lr!r}", f"seed={seed}"]
        count = self.size * 2  # as many media a step everywhere: a pair is two, KTO's labels are one each
        if model == "offline":
            folder = self.data("shuffled" if method == "shuffled" else "judged")
            count = count if method == "kto" else self.size
            fixed.append(f"offline={{use: folder, path: {folder}}}")
        every = -(-self.queries // self.evaluated)
        fixed += [f"rollout.samples={count}", f"rollout.batch={count}"]
        return [*fixed, *self.overrides, f"train.iterations={self.queries}", f"evaluate.every={every}"]

    def data(self, kind: str) -> Path:
        """The folder of pairs, made when first asked for; ``shuffled`` has the same pictures and other labels."""
        folder = self.root / "pairs" / kind
        if not (folder / "feedback.jsonl").exists():
            if kind == "judged":
                self.console.print(f"[bold]{self.pairs} pairs[/bold]")
                count = min(self.pairs, 16) * 4
                api.pairs(BASE, folder, self.pairs, [*PAIRS, f"rollout.samples={count}", f"rollout.batch={count}", *self.overrides])
            else:
                shuffle(self.data("judged"), folder)
        return folder.resolve()


def shuffle(source: Path, folder: Path) -> None:
    """The same pairs with labels that follow from their seeds, one side as likely as the other."""
    folder.mkdir(parents=True)
    lines = [json.loads(line) for line in (source / "feedback.jsonl").read_text().splitlines()]
    for line in lines:
        sure = CHOICES.get(line["choice"], line["choice"]) if isinstance(line["choice"], str) else line["choice"]
        line["choice"] = 1 - sure if sample_seed(line["seed"], 1) % 2 else sure
        line |= {side: f"../{source.name}/{line[side]}" for side in "ab"}
    (folder / "feedback.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def compare(comparison: Preferences, studies: Sequence[str], wanted: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """All that the page and the plot show, by study and method."""
    results: dict[str, Any] = {}
    for name in studies:
        study = STUDIES[name]
        chosen = {method: study.methods[method] for method in study.methods if method in wanted}
        if not chosen:
            continue
        found = results[name] = {"words": study.words, "trained": study.judge, "label": study.label, "weight": 1.0, "methods": {}}
        for method, about in chosen.items():
            runs = {seed: comparison.curve(name, method, about.lr, seed) for seed in seeds}
            found["methods"][method] = {
                "words": about.words,
                "changes": comparison.changes(name, method, about.lr, seeds[0]),
                "lr": about.lr,
                "devices": sorted({comparison.device(name, method, about.lr, seed) for seed in seeds}),
                "seeds": {str(seed): curve for seed, curve in runs.items()},
                "curves": average(list(runs.values())),
            }
        refuse_other_weights(name, found)
        runs = [curve for method in found["methods"].values() for curve in method["seeds"].values()]
        found["seconds"] = min(curve["seconds"][-1] for curve in runs)
        for method in found["methods"].values():
            method["equal seconds"] = at_seconds(list(method["seeds"].values()), found["seconds"])
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    names = [method for study in STUDIES.values() for method in study.methods]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="where pairs and runs are, and the results if --results is not given")
    parser.add_argument("--study", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--methods", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=384, help="of the offline study")
    parser.add_argument("--steps", type=int, default=32, help="iterations of a run, each an optimizer step")
    parser.add_argument("--size", type=int, default=32, help="pairs of an offline step; half the samples of an online one")
    parser.add_argument("--evaluations", type=int, default=3, help="evaluations of a run, without that of the base model")
    parser.add_argument("--quick", action="store_true", help="one seed, two steps of four pairs, little to evaluate")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to every recipe")
    parser.add_argument("--results", type=Path, help="where preferences.json, .md and .svg are written")
    given = parser.parse_intermixed_args(words)
    if given.quick:
        given.seeds, given.pairs, given.steps, given.size, given.evaluations = given.seeds[:1], 4, 2, 4, 1
        given.set += ["rollout.steps=2", "evaluate.prompts=2", "evaluate.per_prompt=2"]
    comparison = Preferences(given.out, given.pairs, given.steps, given.size, given.evaluations, given.set)
    results = compare(comparison, given.study, given.methods, given.seeds)
    if not results:
        parser.error(f"none of the methods {', '.join(given.methods)} is in {', '.join(given.study)}")
    line = shlex.join(["python", "benchmarks/preferences.py", *words])
    found = {"command": line, "pairs": given.pairs, "steps": given.steps, "size": given.size, "studies": results}
    write(
        given.results or given.out, "preferences", found, page(found), lambda file: plot(results, file, "samples, or records of a data set")
    )


if __name__ == "__main__":
    main()
