"""Judged media through the loop: they teach, shuffled judgements do not, a killed run goes on to the bit, and what cannot be is refused."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import torch
from rich.console import Console

from tropism import api, assemble, checkpoint, plugins
from tropism.data.batches import Batches
from tropism.data.folder import Folder
from tropism.data.stream import Stream
from tropism.errors import DataError, RecipeError
from tropism.recipe import parse

RECIPE = """\
name: test/offline
policy: {{use: toy/mixture}}
data: {{use: prompts, train: [a]}}
offline: {offline}
adapter: {{kind: full, ema: 0.9}}
rollout: {{sampler: {sampler}, steps: 6, samples: 64, batch: 64}}
optimizer: {optimizer}
train: {{iterations: {iterations}, lr: 3e-3, updates: 2, micro: 1024}}
evaluate: {{every: 20, prompts: 1, per_prompt: 256, show: 1, rewards: [{{use: toy/near}}]}}
save: {{every: 3}}
"""
CASES = {
    "dpo": "{use: dpo, beta: 5}",
    "inpo": "{use: inpo, beta: 5, draws: 2}",
    "smpo": "{use: smpo, beta: 1, draws: 2}",
    "kto": "{use: kto, beta: 2}",
    "dro": "{use: dro, kl: 0.5}",
}
QUIET = Console(file=io.StringIO())


def text(folder, optimizer: str = CASES["dpo"], iterations: int = 20, **changes: str) -> str:
    given = {"offline": f"{{use: folder, path: {folder}}}", "sampler": "{use: ode}", **changes}
    return RECIPE.format(optimizer=optimizer, iterations=iterations, **given)


def point(x: float, y: float) -> str:
    return json.dumps([x, y])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """96 pairs of points on the toy's circle, of which the one nearer to (2, 0) is preferred; and, in the same order, shuffled ones."""
    folder = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)
    angle = torch.randint(0, 8, (96, 2), generator=generator) * (torch.pi / 4)
    points = 2 * torch.stack([angle.cos(), angle.sin()], -1) + 0.2 * torch.randn(96, 2, 2, generator=generator)
    toss = torch.rand(96, generator=generator) < 0.5
    for kind in ("judged", "shuffled"):
        (folder / kind).mkdir()
        lines = []
        for row, pair in enumerate(points):
            for side, one in zip("ab", pair, strict=True):
                (folder / kind / f"{row}{side}.json").write_text(json.dumps(one.tolist()))
            near = (pair - torch.tensor([2.0, 0.0])).square().sum(1)
            first = bool(near[0] < near[1]) if kind == "judged" else bool(toss[row])
            lines.append({"prompt": "a", "a": f"{row}a.json", "b": f"{row}b.json", "choice": "a" if first else "b"})
        (folder / kind / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(tmp_path, recipe: str, name: str = "run"):
    file = tmp_path / f"{name}.yaml"
    file.write_text(recipe)
    return api.run(str(file), [], folder=tmp_path / name, console=QUIET)[0]


def metrics(folder) -> dict[str, list[float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {kind: [row["value"] for row in rows if row["name"] == kind] for kind in {row["name"] for row in rows}}


@pytest.mark.parametrize("name", CASES)
def test_judgements_on_disk_teach_what_shuffled_ones_do_not(tmp_path, data, name):
    found = metrics(run(tmp_path, text(data / "judged", CASES[name]), "judged"))
    before, after = found["eval/toy/near"]
    assert after > before + 0.4
    assert found["data/bad_rows"] == [0.0] * 20 and not any(key.startswith("reward/") for key in found)
    assert found["data/pass"][0] == 0 and found["data/pass"][-1] == 20 * 64 // (192 if name in ("kto", "dro") else 96)
    shuffled = metrics(run(tmp_path, text(data / "shuffled", CASES[name]), "shuffled"))["eval/toy/near"]
    assert shuffled[1] - shuffled[0] < 0.5 * (after - before)


@pytest.mark.parametrize("optimizer", [CASES["inpo"], CASES["kto"]])
def test_a_killed_run_goes_on_to_the_bit(tmp_path, data, optimizer):
    whole = run(tmp_path, text(data / "judged", optimizer, 7), "whole")
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints/step-00000007")
    assert api.resume(broken, console=QUIET) == "finished"
    one, other = (checkpoint.load(folder / "checkpoints/step-00000007") for folder in (whole, broken))
    for part in ("trainable", "optimizer", "algorithm", "source", "evaluations"):
        assert same(one[part], other[part]), part
    kept = [[line for line in metrics(folder).items() if "seconds" not in line[0]] for folder in (whole, broken)]
    assert dict(kept[0]) == dict(kept[1])


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_bad_rows_are_told_once_and_counted(tmp_path, data):
    folder = tmp_path / "bad"
    shutil.copytree(data / "judged", folder)
    (folder / "3a.json").write_text("[1, 2, 3]")
    (folder / "4b.json").unlink()
    found = run(tmp_path, text(folder, iterations=4))
    log = (found / "log.txt").read_text()
    assert log.count("96 rows read") == 1 and "missing media: 1" in log and "unreadable media: 1" in log
    assert "row 3 a: ValueError: found [1.0, 2.0, 3.0]; expected the 2 coordinates of a point" in log
    assert metrics(found)["data/bad_rows"][-1] == 2


def test_a_medium_is_embedded_once_and_forgotten_within_the_limit(data):
    made: list[torch.Tensor] = []

    def finish(tensor: torch.Tensor) -> torch.Tensor:
        made.append(tensor)
        return 10 * tensor

    def batches(limit: int) -> Batches:
        made.clear()
        return Batches(Stream(Folder(str(data / "judged")), seed=None), lambda parts: torch.tensor(json.loads(parts[0])), finish, limit)

    kept = batches(10_000)
    first = kept.pairs(96)
    assert len(made) == 192 and kept.kept.size == 192 * 8
    assert torch.equal(kept.pairs(96).winner, first.winner) and len(made) == 192
    small = batches(100)
    assert torch.equal(small.pairs(96).winner, first.winner) and len(small.kept.held) == 12
    assert torch.equal(small.pairs(96).loser, first.loser) and len(made) == 384


def test_processes_share_a_batch(data):
    def batches() -> Batches:
        return Batches(Stream(Folder(str(data / "judged"))), lambda parts: torch.tensor(json.loads(parts[0])), lambda x: x)

    whole, parts = batches(), [batches(), batches()]
    rows = ([0, 1, 4, 5], [2, 3, 6, 7])
    for _ in range(13):
        together = whole.pairs(8)
        shares = [one.pairs(8, mine) for one, mine in zip(parts, rows, strict=True)]
        for share, mine in zip(shares, rows, strict=True):
            assert torch.equal(share.winner, together.winner[mine]) and share.number == [together.number[row] for row in mine]
    assert parts[0].state_dict()["stream"]["taken"] == parts[1].state_dict()["stream"]["taken"] == whole.state_dict()["stream"]["taken"]


def problems(recipe: str) -> str:
    with pytest.raises(RecipeError) as told:
        assemble.check(parse(recipe, "r"), plugins.manager()[1], recipe, "r")
    return str(told.value)


def test_what_cannot_learn_from_judged_media_is_refused_before_any_weight_is_loaded(data, tmp_path):
    good = text(data / "judged")
    assemble.check(parse(good, "r"), plugins.manager()[1], good, "r")
    assert "'policy-gradient' learns from advantage and steps of rollouts, and an offline run makes none; use dpo" in problems(
        text(data / "judged", "{use: policy-gradient}")
    )
    assert "rewards: an offline run learns from judgements that are there already" in problems(good + "rewards: [{use: toy/near}]\n")
    assert "credit: an offline run learns from judgements" in problems(good + "credit: {use: per-prompt}\n")
    assert "rollout: group, window and start are of rollouts" in problems(good.replace("batch: 64}", "batch: 64, group: 2}"))
    assert "evaluate: nothing says whether this run helps" in problems(good.replace(", rewards: [{use: toy/near}]", ""))
    assert "'dpo' trains a denoiser on finished samples" in problems(text(data / "judged", sampler="{use: consistency}"))
    assert "'densedpo' learns from segments; write axis: 2" in problems(text(data / "judged", "{use: densedpo}"))
    segments = f"{{use: folder, path: {data / 'judged'}, axis: 1}}"
    assert "'densedpo' learns from segments, but 'folder' finds none here" in problems(text(0, "{use: densedpo}", offline=segments))
    assert "offline: 'prompts' is no reader of judged media" in problems(text(0, offline="{use: prompts, train: [a]}"))
    assert "offline: data '" in problems(text(tmp_path / "none")) and "not found" in problems(text(tmp_path / "none"))
    assert "offline: 'folder' takes no argument 'pth' (did you mean 'path'?)" in problems(text(0, offline="{use: folder, pth: x}"))


def test_a_reader_under_data_and_a_run_without_anything_to_learn_from_are_refused(data):
    online = (
        text(data / "judged").replace("offline: ", "#").replace("data: {use: prompts, train: [a]}", f"data: {{use: folder, path: {data}}}")
    )
    assert "rewards: what a run is to learn from is missing; name one or more, or judged media under offline" in problems(online)
    assert "'folder' reads judged media, which a run that makes its own samples cannot use; name it under offline" in problems(
        online + "rewards: [{use: toy/near}]\n"
    )


def test_labels_are_no_pairs_but_pairs_are_labels(data, tmp_path):
    (tmp_path / "1.json").write_text(point(1, 1))
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "a", "file_name": "1.json", "label": True}) + "\n")
    assert "'dpo' learns from pairs, but 'folder' finds labels here; use kto or dro" in problems(text(tmp_path))
    kto = text(data / "judged", CASES["kto"])
    assert assemble.check(parse(kto, "r"), plugins.manager()[1]).reader.__class__.__name__ == "Unpaired"


def test_segments_teach_where_they_were_judged(tmp_path):
    """The first point is better in x, the second in y: each coordinate is one segment."""
    for name, values in (("1", (2.0, -2.0)), ("2", (-2.0, 2.0))):
        (tmp_path / f"{name}.json").write_text(point(*values))
    (tmp_path / "x.jsonl").write_text(
        json.dumps({"prompt": "a", "a": "1.json", "b": "2.json", "choice": "a", "segments": ["a", "b"]}) + "\n"
    )
    recipe = text(0, "{use: densedpo, beta: 5}", 12, offline=f"{{use: folder, path: {tmp_path}, axis: 1}}")
    folder = run(tmp_path, recipe.replace("toy/near}", "toy/near, x: 2.0, y: 2.0}"))
    before, after = metrics(folder)["eval/toy/near"]
    assert after > before + 0.3


def test_data_without_anything_usable_says_so(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "a", "a": "1.json", "b": "2.json", "choice": "a"}) + "\n")
    assert "missing media: 1" in problems(text(tmp_path))
    for name in "12":
        (tmp_path / f"{name}.json").write_text("no json")
    with pytest.raises(DataError, match="nothing in a whole pass over the data could be decoded"):
        run(tmp_path, text(tmp_path))
