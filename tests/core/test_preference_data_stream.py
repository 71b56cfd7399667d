"""The stream of records: bounded memory, a seeded order, and the exact place taken up again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.core import preferences as write
from tropism import checkpoint
from tropism.data import collate, parquet, tables, tars
from tropism.data.batches import Batches
from tropism.data.faults import BadRow
from tropism.data.folder import Folder
from tropism.data.hpd import Hpd2
from tropism.data.imagereward import ImageRewardDB
from tropism.data.layout import Layout
from tropism.data.media import Media
from tropism.data.pickapic import PickAPic
from tropism.data.records import Label
from tropism.data.stream import Stream
from tropism.data.unpaired import Unpaired
from tropism.data.webdataset import WebDataset
from tropism.errors import DataError, TropismError
from tropism.toy import ToyPolicy


class Counting(Layout):
    """``count`` rows in each of ``files`` files that exist only when asked for; what was asked for is counted."""

    def __init__(self, count: int, files: int = 1) -> None:
        self.files = [Path(f"file-{number}") for number in range(files)]
        self.count, self.opened, self.started = count, 0, []

    def rows(self, file, start):
        self.started.append((file.name, start))
        for number in range(start, self.count):
            self.opened += 1
            yield number, {"name": f"{file.name}:{number}"}

    def records(self, row, where):
        yield Label(row["name"], Media(row["name"], (b"x",)), True)


def names(stream: Stream, count: int) -> list[str]:
    return [next(stream).prompt for _ in range(count)]


def test_no_more_than_a_window_is_read_ahead():
    layout = Counting(10**9)
    stream = Stream(layout, window=64)
    for given in range(1, 1000):
        next(stream)
        assert layout.opened - given < 64 and len(stream._held) <= 64
    assert layout.started == [("file-0", 0)]


def test_every_record_comes_once_a_pass_in_an_order_of_the_seed():
    def two_passes(seed):
        stream = Stream(Counting(10, files=3), seed=seed, window=7)
        return [names(stream, 30), names(stream, 30)]

    first, second = two_passes(0)
    assert sorted(first) == sorted(second) == sorted(f"file-{file}:{row}" for file in range(3) for row in range(10))
    assert first != second and two_passes(0) == [first, second] and two_passes(1)[0] != first
    plain = Stream(Counting(4, files=2), seed=None, window=3)
    assert names(plain, 8) == [f"file-{file}:{row}" for file in range(2) for row in range(4)]
    assert [record.prompt for record in Stream(Counting(5), seed=None, window=2).one_pass()] == [f"file-0:{row}" for row in range(5)]


@pytest.mark.parametrize("at", [0, 1, 6, 7, 8, 14, 29, 30, 31, 65])
def test_a_stream_is_taken_up_where_it_stood(tmp_path, at):
    whole = names(Stream(Counting(10, files=3), seed=5, window=7), 120)
    stream = Stream(Counting(10, files=3), seed=5, window=7)
    names(stream, at)
    checkpoint.save(tmp_path / "step-00000001", {"data": stream.state_dict()})
    layout = Counting(10, files=3)
    again = Stream(layout, seed=5, window=7)
    again.load_state_dict(checkpoint.load(tmp_path / "step-00000001")["data"])
    assert names(again, 120 - at) == whole[at:]
    names(stream, 120 - at)
    left, right = stream.state_dict(), again.state_dict()
    assert torch.equal(left["tally"].pop("seen"), right["tally"].pop("seen")) and left == right
    assert right["tally"]["rows"] == 30  # the first pass, whatever came before or after the checkpoint


def test_taking_up_reads_the_window_and_nothing_before_it():
    stream = Stream(Counting(1000), seed=None, window=10)
    names(stream, 995)
    layout = Counting(1000)
    again = Stream(layout, seed=None, window=10)
    again.load_state_dict(stream.state_dict())
    assert layout.started == [("file-0", 990)] and layout.opened == 10
    assert names(again, 2) == ["file-0:995", "file-0:996"]


def test_another_data_set_does_not_take_up_a_checkpoint():
    state = Stream(Counting(10), seed=1).state_dict()
    with pytest.raises(DataError, match=r"the checkpoint's data had seed 1; found 2: resume with"):
        Stream(Counting(10), seed=2).load_state_dict(state)
    with pytest.raises(DataError, match=r"had files \['file-0'\]; found \['file-0', 'file-1'\]"):
        Stream(Counting(10, files=2), seed=1).load_state_dict(state)
    stream = Stream(Counting(10), seed=1)
    names(stream, 8)
    with pytest.raises(DataError, match="stood at record 8 of a window that now has 5: the files have changed"):
        Stream(Counting(5), seed=1).load_state_dict(stream.state_dict())
    with pytest.raises(DataError, match="expected ties 'skip' or 'keep' and a window of 1 row or more"):
        Stream(Counting(1), window=0)


def test_parquet_reads_only_the_row_groups_and_columns_it_needs(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    from pyarrow.parquet import ParquetFile

    file = write.pickapic(tmp_path / "x.parquet", [write.pickapic_row(number) for number in range(40)], group=4)
    asked: list[tuple[list[int], list[str]]] = []
    original = ParquetFile.iter_batches

    def counted(self, batch_size, row_groups, columns):
        asked.append((row_groups, columns))
        return original(self, batch_size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(ParquetFile, "iter_batches", counted)
    rows = tables.rows(file, 13, PickAPic.columns)
    assert [next(rows)[0] for _ in range(5)] == [13, 14, 15, 16, 17]
    assert [groups for groups, _ in asked] == [[3], [4]]
    assert "image_0_url" not in asked[0][1] and {"jpg_0", "caption"} <= set(asked[0][1])


@pytest.mark.parametrize("kind", ["parquet", "json", "jsonl", "csv", "tar"])
@pytest.mark.parametrize("start", [0, 1, 4, 9, 10, 99])
def test_every_table_starts_at_any_row(tmp_path, kind, start):
    made = [{"n": f'{number},\n"x"'} for number in range(10)]
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        rows = parquet.rows(write.parquet(tmp_path / "x.parquet", made), start, None)
    elif kind == "tar":
        rows = tars.samples(write.as_tar(tmp_path / "x.tar", {f"{row:03}": {"n": made[row]["n"].encode()} for row in range(10)}), start)
        rows = ((number, {"n": row["n"].decode()}) for number, row in rows)
    else:
        writer = {"json": write.as_json, "jsonl": write.as_jsonl, "csv": write.as_csv}[kind]
        rows = tables.rows(writer(tmp_path / f"x.{kind}", made), start)
    assert list(rows) == list(enumerate(made))[start:]


def test_a_long_json_array_is_never_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK", 64)
    made = [{"prompt": 'ü{[]}\\"' * (number % 7), "row": number} for number in range(300)]
    file = write.as_json(tmp_path / "train.json", made)
    asked = []
    original = Path.open

    def watched(self, *args, **options):
        stream = original(self, *args, **options)
        read = stream.read
        if "b" not in str(args):
            stream.read = lambda count: asked.append(count) or read(count)
        return stream

    monkeypatch.setattr(Path, "open", watched)
    assert [row for _, row in tables.rows(file, 0)] == made
    assert max(asked) < 1024 < file.stat().st_size and len(asked) > 100


def test_real_layouts_resume_too(tmp_path):
    pytest.importorskip("pyarrow")
    ranked = [{"prompt": f"p{row}", "image_path": ["a", "b", "c"], "rank": [1, 2, 3]} for row in range(9)]
    write.media(tmp_path / "hpd", "a", "b", "c")
    pictures = [
        {"prompt_id": f"p{row % 5}", "prompt": "x", "image": f"{row}.png", "rank": row // 5, "image_amount_in_total": 3}
        for row in range(15)
    ]
    write.media(tmp_path / "reward", *(f"{row}.png" for row in range(15)))
    layouts = [
        PickAPic(str(write.pickapic(tmp_path / "pick" / "x.parquet", [write.pickapic_row(row) for row in range(23)]))),
        WebDataset(str(write.as_tar(tmp_path / "web" / "x.tar", {f"{row:04}": write.tar_pair(row) for row in range(23)}))),
        Hpd2(str(write.as_json(tmp_path / "hpd" / "test.json", ranked))),
        ImageRewardDB(str(write.as_json(tmp_path / "reward" / "x.json", pictures))),
    ]
    for layout in layouts:

        def told(stream, count):
            return [(record.prompt, record.a.name, record.b.name) for record in (next(stream) for _ in range(count))]

        whole = told(Stream(layout, window=5), 50)
        assert len(set(whole)) >= 15
        for at in (3, 11, 26, 40):
            stream, again = Stream(layout, window=5), Stream(layout, window=5)
            told(stream, at)
            again.load_state_dict(stream.state_dict())
            assert told(again, 50 - at) == whole[at:], (type(layout), at)


def test_batches_are_decoded_and_resume(tmp_path):
    rows = [write.tar_pair(number, "0" if number % 3 else "1") for number in range(10)]
    rows[4]["jpg_1.jpg"] = b"damaged"
    layout = WebDataset(str(write.as_tar(tmp_path / "x.tar", {f"{number:04}": row for number, row in enumerate(rows)})))

    def decode(parts):
        (content,) = parts
        if content == b"damaged":
            raise ValueError("no picture")
        return torch.full((3, 2, 2), float(content.split()[1])) * (1 if content.startswith(b"left") else -1)

    batches = Batches(Stream(layout, seed=None), decode)
    batch = batches.pairs(6)
    assert batch.winner[:, 0, 0, 0].tolist() == [0, -1, -2, 3, -5, 6] and batch.loser[:, 0, 0, 0].tolist() == [0, 1, 2, -3, 5, -6]
    assert batch.winner.shape == (6, 3, 2, 2) and batch.chance.tolist() == [1] * 6 == batch.weight.tolist() and batch.segments is None
    assert batch.items[4] == {"prompt": "prompt 5"} and batch.meta[4] == {"key": "0005"}
    assert batches.tally.faults == Counter({"unreadable media": 1})
    assert batches.tally.named["unreadable media"][0].endswith("x.tar row 4 ('0004') jpg_1: ValueError: no picture")
    again = Batches(Stream(layout, seed=None), decode)
    again.load_state_dict(batches.state_dict())
    assert again.tally.faults == batches.tally.faults
    assert torch.equal(again.pairs(7).winner, batches.pairs(7).winner)
    with pytest.raises(DataError, match="found a Preference in the data where a Label was expected; read pairs as labels"):
        batches.labels(1)


def test_labels_soft_choices_ties_and_segments_in_batches(tmp_path):
    write.media(tmp_path, "1.png", "2.png")
    base = {"prompt": "x", "a": "1.png", "b": "2.png"}
    rows = [{**base, "choice": 0.2, "segments": ["a", "tie"]}, {**base, "choice": "tie", "segments": ["b", "a"], "weight": 3}]
    write.as_jsonl(tmp_path / "pairs" / "x.jsonl", rows)
    for name in ("1.png", "2.png"):
        write.media(tmp_path / "pairs", name)

    def decode(parts):
        return torch.tensor([float(parts[0][:1])])

    batch = Batches(Stream(Folder(str(tmp_path / "pairs")), seed=None, ties="keep"), decode).pairs(2)
    assert batch.winner.tolist() == [[2], [1]] and batch.loser.tolist() == [[1], [2]]
    assert torch.allclose(batch.chance, torch.tensor([0.8, 0.5])) and batch.weight.tolist() == [1, 3]
    assert batch.segments.tolist() == [[-1, 0], [-1, 1]]  # of the winner, which is b in the first
    write.as_jsonl(
        tmp_path / "x.jsonl", [{"prompt": "x", "media": "1.png", "label": True}, {"prompt": "y", "media": "2.png", "label": False}]
    )
    labels = Batches(Stream(Folder(str(tmp_path / "x.jsonl")), seed=None), decode).labels(3)
    assert labels.media.tolist() == [[1], [2], [1]] and labels.label.tolist() == [1, -1, 1]
    kept = Batches(Stream(Folder(str(write.as_jsonl(tmp_path / "tie.jsonl", [{**base, "choice": "tie"}]))), ties="keep"), decode).pairs(1)
    assert kept.weight.tolist() == [0]


def test_shapes_that_differ_are_named(tmp_path):
    layout = WebDataset(str(write.as_tar(tmp_path / "x.tar", {f"{number}": write.tar_pair(number) for number in range(4)})))
    with pytest.raises(DataError, match=r"media of shapes \[1\] and \[2\] make no batch; decode them to one size"):
        Batches(Stream(layout, seed=None), lambda parts: torch.zeros(1 + int(parts[0].split()[1]))).pairs(2)
    uneven = Batches(Stream(layout, seed=None), lambda parts: torch.zeros(1 + parts[0].startswith(b"left")))
    with pytest.raises(DataError, match=r"nothing in a whole pass over the data could be decoded.*\n  unequal media: 4\n"):
        uneven.pairs(1)
    broken = BadRow("huge media", "too many pixels")

    def refuse(parts):
        raise broken

    with pytest.raises(DataError, match=r"huge media: 4\n    .*x.tar row 0 .'0'. jpg_0: too many pixels"):
        Batches(Stream(layout, seed=None), refuse).pairs(1)


def test_a_reader_that_is_missing_ends_the_run_and_is_no_fault_of_the_rows(tmp_path):
    def decode(parts: list[bytes]) -> torch.Tensor:
        raise TropismError("reading video files needs decord: pip install 'tropism-video[files]'")

    layout = WebDataset(str(write.as_tar(tmp_path / "x.tar", {"0": write.tar_pair(0)})))
    with pytest.raises(TropismError, match="needs decord"):
        Batches(Stream(layout, seed=None), decode).pairs(1)


def test_batches_become_pairs_and_labels_of_a_policy(tmp_path):
    rows = [
        {"prompt": "x", "a": "1.txt", "b": "2.txt", "choice": "b", "segments": ["a", "b"]},
        {"prompt": "y", "a": "1.txt", "b": "2.txt", "choice": 0.75, "segments": ["tie", "a"], "weight": 2},
    ]
    write.as_jsonl(tmp_path / "x.jsonl", rows)
    (tmp_path / "1.txt").write_text("1 0 0 0")
    (tmp_path / "2.txt").write_text("2 0 0 0")

    def decode(parts):
        return torch.tensor([float(word) for word in parts[0].split()])

    def taken(sizes):
        batches = Batches(Stream(Folder(str(tmp_path)), seed=None), decode)
        return [collate.pairs(batches.pairs(size), ToyPolicy().encode, lambda media: media * 10, seed=3, segment_axis=1) for size in sizes]

    (both,) = taken([2])
    assert both.winner[:, 0].tolist() == [20, 10] and both.loser[:, 0].tolist() == [10, 20]
    assert both.weight.tolist() == [1, 2] and both.chance.tolist() == [1, 0.75] and len(both) == 2
    assert both.segments.tolist() == [[-1, -1, 1, 1], [0, 0, 1, 1]] and both.cond.items == [{"prompt": "x"}, {"prompt": "y"}]
    one, two = taken([1, 1])
    assert torch.equal(torch.cat([one.cond.seed, two.cond.seed]), both.cond.seed) and one.cond.seed != two.cond.seed
    assert taken([3])[0].cond.seed[2] not in both.cond.seed  # the next pass has other noise
    odd = Batches(Stream(Folder(str(tmp_path)), seed=None), lambda parts: decode(parts)[:3]).pairs(1)
    with pytest.raises(DataError, match="2 segments do not divide the 3 latent frames of axis 1"):
        collate.pairs(odd, ToyPolicy().encode, lambda media: media, seed=3, segment_axis=1)
    assert collate.pairs(odd, ToyPolicy().encode, lambda media: media, seed=3).segments is None
    labels = Batches(Stream(Unpaired(Folder(str(tmp_path))), seed=None), decode)
    assert collate.labelled(labels.labels(2), ToyPolicy().encode, lambda media: media, seed=3).label.tolist() == [-1, 1]
    with pytest.raises(DataError, match=r"labels have weights \[2.0, 2.0\]; expected 0 to 1"):
        collate.labelled(labels.labels(2), ToyPolicy().encode, lambda media: media, seed=3)
    half = [{"prompt": "x", "media": "1.txt", "label": False, "weight": 0.5}]
    weak = Batches(Stream(Folder(str(write.as_jsonl(tmp_path / "half.jsonl", half)))), decode).labels(1)
    assert collate.labelled(weak, ToyPolicy().encode, lambda media: media, seed=3).label.tolist() == [-0.5]
