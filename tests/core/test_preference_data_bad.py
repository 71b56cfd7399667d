"""Bad input: named with file and row, counted, nothing good lost with it, and an end only where nothing usable is left."""

from __future__ import annotations

import json

import pytest

from tests.core import preferences as write
from tropism.data import tables
from tropism.data.faults import BadRow
from tropism.data.folder import Folder
from tropism.data.hpd import Hpd2, Hpd3
from tropism.data.imagereward import ImageRewardDB
from tropism.data.kto import Kto
from tropism.data.pickapic import PickAPic
from tropism.data.stream import Stream
from tropism.data.trl import Trl
from tropism.data.videoalign import VideoAlign
from tropism.data.videofeedback import ASPECTS, VideoFeedback
from tropism.data.webdataset import WebDataset
from tropism.errors import DataError

pytest.importorskip("pyarrow")


def read(layout, **options):
    stream = Stream(layout, seed=None, **options)
    return list(stream.one_pass()), stream.tally


def test_bad_rows_among_good_ones_are_counted_and_named(tmp_path):
    rows = [
        write.pickapic_row(0),
        write.pickapic_row(1, jpg_0=b""),
        write.pickapic_row(2, jpg_1=None),
        write.pickapic_row(3, has_label=False),
        write.pickapic_row(4, 0.5),
        write.pickapic_row(5, caption=" "),
        write.pickapic_row(6, label_0=1.0, label_1=1.0),
        write.pickapic_row(7, jpg_0=b"x" * 2000),
        write.pickapic_row(8, 0.0),
    ]
    file = write.pickapic(tmp_path / "train.parquet", rows)
    found, tally = read(PickAPic(str(file)), limit=1000)
    assert [record.prompt for record in found] == ["prompt 0", "prompt 8"]
    assert tally.rows == 9 and tally.usable == 2 and tally.ties == 1
    assert tally.faults == {"empty media": 1, "missing media": 1, "unlabelled": 1, "bad value": 2, "huge media": 1}
    assert tally.named["empty media"] == [f"{file} row 1 jpg_0 has no bytes"]
    assert tally.named["missing media"] == [f"{file} row 2 jpg_1: the cell is empty"]
    assert tally.named["bad value"] == [
        f"{file} row 5: 'caption' is ' '; expected a prompt",
        f"{file} row 6: label_0 is 1 and label_1 is 1; expected 1 and 0, or 0.5 twice",
    ]
    assert tally.named["huge media"] == [f"{file} row 7 jpg_0 has 0.0 MB; the limit is 0.0 MB"]
    assert tally.lines()[0] == "9 rows read, 2 records usable, 1 ties" and "bad value: 2" in tally.lines()


def test_missing_pictures_are_named_and_the_other_pairs_of_a_ranking_stay(tmp_path):
    write.media(tmp_path, "test/a.jpg", "test/c.jpg")
    file = write.as_json(tmp_path / "test.json", [{"prompt": "x", "image_path": ["a.jpg", "b.jpg", "c.jpg"], "rank": [1, 2, 3]}])
    found, tally = read(Hpd2(str(file)))
    assert [(record.a.read(), record.b.read()) for record in found] == [([b"a.jpg"], [b"c.jpg"])]
    assert tally.faults == {"missing media": 2}
    assert tally.named["missing media"][0] == f"{file} row 0 picture 1: {tmp_path / 'test/b.jpg'} not found"


def test_only_five_of_a_kind_are_named_and_all_are_counted(tmp_path):
    rows = [{"prompt": "x", "chosen": f"{row}.png", "rejected": "b.png"} for row in range(50)]
    write.media(tmp_path, "b.png", "49.png")
    found, tally = read(Trl(str(write.as_jsonl(tmp_path / "x.jsonl", rows))))
    assert len(found) == 1 and tally.faults == {"missing media": 49}
    assert len(tally.named["missing media"]) == 5 and "missing media: 49" in tally.lines() and "  ..." in tally.lines()


def test_a_truncated_parquet_file_is_one_fault_and_the_next_file_is_read(tmp_path):
    whole = write.pickapic(tmp_path / "b.parquet", [write.pickapic_row(row) for row in range(8)])
    (tmp_path / "a.parquet").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "c.parquet").write_bytes(b"")
    found, tally = read(PickAPic(str(tmp_path)))
    assert len(found) == 8 and tally.faults == {"broken file": 2}
    assert tally.named["broken file"][0].startswith(f"{tmp_path / 'a.parquet'} row 0: not a whole parquet file: ")


def test_a_damaged_row_group_is_counted_with_its_rows(tmp_path):
    from pyarrow.parquet import ParquetFile

    rows = [write.pickapic_row(row, jpg_0=bytes([row]) * 5000) for row in range(12)]
    file = write.pickapic(tmp_path / "x.parquet", rows, group=4)
    with ParquetFile(file) as table:
        column = table.metadata.row_group(1).column(list(table.schema_arrow.names).index("jpg_0"))
        begin = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(file.read_bytes())
    data[begin : begin + 40] = b"\xff" * 40
    file.write_bytes(data)
    found, tally = read(PickAPic(str(file)))
    assert [record.prompt for record in found] == [f"prompt {row}" for row in (0, 1, 2, 3, 8, 9, 10, 11)]
    assert tally.rows == 12 and tally.faults == {"broken file": 4}
    assert (
        tally.named["broken file"][0].startswith(f"{file} row 4: row group 1 is damaged: ") and "(4 rows)" in tally.named["broken file"][0]
    )
    resumes_everywhere(PickAPic(str(file)), 8)


def resumes_everywhere(layout, records):
    """The rows counted and the records given after taking up are those of an unbroken pass, wherever the damage lies in a window."""
    for window in (1, 2, 3, 5):
        for at in range(1, records):
            stream, again = (Stream(layout, seed=None, window=window) for _ in range(2))
            for _ in range(at):
                next(stream)
            again.load_state_dict(stream.state_dict())
            left, right = ([record.a.name for record in one.one_pass()] for one in (stream, again))
            assert left == right and len(left) == records - at, (window, at)
            assert again.tally.rows == stream.tally.rows and again.tally.faults == stream.tally.faults, (window, at)


def test_a_damaged_stretch_among_the_pictures_of_prompts_is_counted_once(tmp_path, monkeypatch):
    write.media(tmp_path, *(f"{number}.png" for number in range(12)))
    rows = [{"prompt_id": n // 2, "prompt": "x", "image_path": f"{n}.png", "rank": n % 2, "image_amount_in_total": 2} for n in range(12)]

    def damaged(file, start, columns):
        yield from list(enumerate(rows))[start:4]
        yield 4, BadRow("broken file", "damaged", rows=4)
        yield from list(enumerate(rows))[max(start, 8) :]

    monkeypatch.setattr(tables, "rows", damaged)
    (tmp_path / "x.parquet").write_bytes(b"")
    resumes_everywhere(ImageRewardDB(str(tmp_path / "x.parquet")), 4)


@pytest.mark.parametrize("cut", [513, 1500, 2100, 4000])
def test_a_truncated_tar_keeps_what_was_whole(tmp_path, cut):
    file = write.as_tar(tmp_path / "x.tar", {f"{number:04}": write.tar_pair(number) for number in range(4)})  # 10 blocks of 512 a sample
    whole = file.read_bytes()
    file.write_bytes(whole[: 2 * 5120 + cut])
    found, tally = read(WebDataset(str(file)))
    assert [record.prompt for record in found] == ["prompt 0", "prompt 1"]
    assert sum(tally.faults.values()) == 1 and tally.rows == 3
    assert f"{file} row 2" in next(iter(tally.named.values()))[0]


def test_tars_with_odd_members(tmp_path):
    good, lone = write.tar_pair(0), write.tar_pair(1)
    del lone["jpg_1.jpg"]
    odd = {"0": good, "1": lone, "2": {**write.tar_pair(2), "jpg_0.jpg": b"x" * 3000}, "3": {**write.tar_pair(3), "label_0.txt": b"yes"}}
    found, tally = read(WebDataset(str(write.as_tar(tmp_path / "x.tar", odd)), limit=1000))
    assert len(found) == 1 and tally.faults == {"missing media": 1, "huge media": 1, "bad value": 1}
    assert "sample '1' has no jpg_1.jpg or the like; it has jpg_0.jpg, label_0.txt, label_1.txt, original_prompt.txt" in str(tally.named)
    (tmp_path / "no.tar").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"nothing usable in .*no\.tar as WebDataset:\n  1 rows read.*\n  broken file: 1\n.*not a tar file"):
        read(WebDataset(str(tmp_path / "no.tar")))


def test_truncated_and_damaged_text(tmp_path):
    rows = [{"n": number} for number in range(5)]
    file = write.as_json(tmp_path / "x.json", rows)
    file.write_text(file.read_text()[:-6])
    found = list(tables.rows(file, 0))
    assert [row for _, row in found[:-1]] == rows[:4] and found[-1][0] == 4 and "ends in the middle" in found[-1][1].reason
    file = write.as_jsonl(tmp_path / "x.jsonl", rows)
    file.write_bytes(b'{"n": 0}\nnot json\n\xff\xfe\n[1]\n\n{"n": 5}\n{"n"')
    found = dict(tables.rows(file, 0))
    assert {number: row for number, row in found.items() if isinstance(row, dict)} == {0: {"n": 0}, 5: {"n": 5}}
    assert {number: row.kind for number, row in found.items() if isinstance(row, BadRow)} == {
        1: "broken file",
        2: "broken file",
        3: "bad value",
        6: "broken file",
    }
    assert "perhaps cut off" in found[6].reason
    (tmp_path / "x.csv").write_bytes(b'a,b\n1,2\n3\n"4,\n5",6\n\xff,7\n8,9\n10')
    found = dict(tables.rows(tmp_path / "x.csv", 0))
    assert found[0] == {"a": "1", "b": "2"} and found[2] == {"a": "4,\n5", "b": "6"} and found[4] == {"a": "8", "b": "9"}
    assert [found[row].reason for row in (1, 3, 5)] == ["found 1 cells; the header has 2", "not UTF-8", "found 1 cells; the header has 2"]
    with pytest.raises(DataError, match=r"found suffix '\.txt'; expected one of \.parquet"):
        tables.rows(tmp_path / "x.txt", 0)


def test_ties_only(tmp_path):
    file = write.pickapic(tmp_path / "x.parquet", [write.pickapic_row(row, 0.5) for row in range(3)])
    with pytest.raises(
        DataError, match=r"nothing usable in .*x\.parquet as PickAPic:\n  3 rows read, 0 records usable, 3 ties\n.*ties='keep'"
    ):
        read(PickAPic(str(file)))
    found, tally = read(PickAPic(str(file)), ties="keep")
    assert len(found) == 3 == tally.ties == tally.usable


def test_one_class_only_is_a_warning(tmp_path):
    write.media(tmp_path, "a.jpg", "b.jpg")
    rows = [{"file_name": name, "caption": "x", "split": "exclusive_win"} for name in ("a.jpg", "b.jpg")]
    found, tally = read(Kto(str(write.as_csv(tmp_path / "x.csv", rows))))
    assert len(found) == 2 and tally.lines() == [
        "2 rows read, 2 records usable, 0 ties, 2 good and 0 bad",
        "all 2 labels are 'good': losses that compare good with bad (KTO, DRO) cannot learn from them",
    ]


def test_conflicting_judgements_are_kept_and_counted(tmp_path):
    write.media(tmp_path, "a.png", "b.png", "c.png")
    pairs = [("a", "b", "a"), ("b", "a", "b"), ("a", "b", "b"), ("a", "c", "a"), ("a", "b", "tie"), ("b", "a", "a")]
    rows = [{"prompt": "x", "a": f"{a}.png", "b": f"{b}.png", "choice": choice} for a, b, choice in pairs]
    file = write.as_jsonl(tmp_path / "x.jsonl", rows)
    found, tally = read(Folder(str(file)))
    assert len(found) == 5 and tally.ties == 1
    assert tally.conflicts == 1  # row 2 against rows 0 and 1, which say the same; row 5 agrees with row 2
    assert tally.named["conflict"] == [f"{file} row 2: an earlier row says the contrary"]
    assert tally.warnings() == ["1 judgements contradict an earlier one on the same media; all are kept"]
    labels = [{"prompt": "x", "media": "a.png", "label": label} for label in (True, False, False)]
    assert read(Folder(str(write.as_jsonl(tmp_path / "labels.jsonl", labels))))[1].conflicts == 1
    same = [write.pickapic_row(0), write.pickapic_row(0, 0.0)]  # told by their bytes
    assert read(PickAPic(str(write.pickapic(tmp_path / "x.parquet", same))))[1].conflicts == 1


def test_wrong_columns_are_named_with_the_nearest(tmp_path):
    file = write.as_csv(tmp_path / "x.csv", [{"file_nam": "a.jpg", "caption": "x", "split": "exclusive_win"}] * 3)
    with pytest.raises(
        DataError, match=r"missing column: 3\n.*row 0: no 'file_name' .did you mean 'file_nam'..; the row has file_nam, caption"
    ):
        read(Kto(str(file)))
    with pytest.raises(DataError, match=r"no 'path_A'; the row has prompt, VQ"):
        read(VideoAlign(str(write.as_csv(tmp_path / "y.csv", [{"prompt": "x", "VQ": "A"}]))))
    with pytest.raises(DataError, match=r"no 'VQ'; the row has prompt"):
        read(VideoAlign(str(write.as_csv(tmp_path / "z.csv", [{"prompt": "x"}]))))


@pytest.mark.parametrize(
    ("layout", "row", "reason"),
    [
        (Hpd2, {"prompt": "x", "file_path": ["a", "b"], "human_preference": [1]}, "expected as many judgements as pictures"),
        (Hpd2, {"prompt": "x", "file_path": ["a", "b"], "human_preference": ["1", None]}, "expected numbers"),
        (Hpd3, {"prompt": "x", "path1": "a", "path2": "a", "choice_dist": [1]}, "expected the votes of two pictures"),
        (Hpd3, {"prompt": "x", "path1": "a", "path2": "a", "choice_dist": [0, 0]}, r"unlabelled: 1\n.*choice_dist is \[0, 0\]"),
        (Hpd3, {"prompt": None, "path1": "a", "path2": "a"}, "'prompt' is None; expected a prompt"),
        (Hpd3, {"prompt": "x", "path1": 3, "path2": "a"}, "path1: found int; expected bytes, a path"),
        (Hpd3, {"prompt": "x", "path1": "https://x.org/a.png", "path2": "a"}, "is a web address; download it first"),
        (ImageRewardDB, {"prompt_id": "p", "prompt": "x", "image_path": "a", "rank": 1}, "prompt 'p' has one picture only"),
        (ImageRewardDB, {"prompt": "x", "image_path": "a", "rank": 1}, "no 'prompt_id'; the row has prompt, image_path, rank"),
        (VideoFeedback, {"id": "f", "images": [], "text prompt": "x", **dict.fromkeys(ASPECTS, 2)}, "no f.mp4 in .*, and 'images' is "),
        (
            VideoFeedback,
            {"id": "f", "images": ["a"], "text prompt": "x", **dict.fromkeys(ASPECTS, 5)},
            "'visual quality' is 5; expected 1 to 4",
        ),
        (VideoFeedback, {"id": "f", "images": ["a"], "text prompt": "x", **dict.fromkeys(ASPECTS, "?")}, r"is '\?'; expected a number"),
        (Trl, {"prompt": "x", "completion": "a", "label": "maybe"}, "'label' is 'maybe'; expected true or false"),
        (Trl, {"chosen": "a", "rejected": "b"}, "no 'prompt', and no words of the user"),
        (Trl, {"prompt": "x", "chosen": [{"role": "assistant", "content": "words"}], "rejected": "a"}, "the conversation has text only"),
    ],
)
def test_values_that_mean_nothing(tmp_path, layout, row, reason):
    write.media(tmp_path, "a", "b")
    file = tmp_path / "x.json"
    file.write_text(json.dumps([row]))
    with pytest.raises(DataError, match=reason):
        read(layout(str(file)))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    import builtins

    original = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *rest)

    file = write.pickapic(tmp_path / "x.parquet", [write.pickapic_row(0)])
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"needs pyarrow to be read\n  install it with: pip install 'tropism\[data\]'"):
        read(PickAPic(str(file)))


def test_text_that_is_damaged_in_the_middle(tmp_path, monkeypatch):
    rows = [{"n": number, "text": "x" * 50} for number in range(20)]
    file = write.as_json(tmp_path / "x.json", rows)
    monkeypatch.setattr(tables, "CHUNK", 64)
    content = file.read_bytes()
    file.write_bytes(content[:700] + b"\xff" + content[701:])
    found = [row for _, row in tables.rows(file, 0)]
    spoilt = next(number for number, row in enumerate(found) if isinstance(row, BadRow))
    assert 5 < spoilt < 19 and found[spoilt].reason == "not UTF-8" and len(found) == 20
    assert found[:spoilt] + found[spoilt + 1 :] == rows[:spoilt] + rows[spoilt + 1 :]
    monkeypatch.setattr(tables, "LONGEST", 500)
    file.write_bytes(content.replace(b'"n": 3,', b'"n" 3,'))
    *found, (number, fault) = tables.rows(file, 0)
    assert [row for _, row in found] == rows[:3] and number == 3 and fault.reason.startswith("not JSON from this row on: Expecting ':'")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n" + "y" * 200_000 + ",3\n4,5\n")
    found = list(tables.rows(tmp_path / "x.csv", 0))
    assert found[0][1] == {"a": "1", "b": "2"} and "field larger than field limit" in found[1][1].reason
    assert found[-1][1] == {"a": "4", "b": "5"}
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(DataError, match=r"nothing usable in .*empty\.json as Hpd2:\n  0 rows read"):
        read(Hpd2(str(tmp_path / "empty.json")))


def test_prompts_that_are_scattered_are_read_in_parts_and_bad_rows_stay_bad(tmp_path, monkeypatch):
    from tropism.data import imagereward

    monkeypatch.setattr(imagereward, "OPEN", 2)
    prompts = ["p0", "p0", "p1", "p2", "p0", "p3", "p3"]  # p0 is given up with two of its three pictures when p2 comes
    rows = [{"prompt_id": p, "prompt": p, "image_path": f"{n}.png", "rank": n, "image_amount_in_total": 3} for n, p in enumerate(prompts)]
    write.media(tmp_path, *(f"{number}.png" for number in range(7)))
    file = write.as_jsonl(tmp_path / "x.json", rows)
    with file.open("a") as stream:
        stream.write("broken\n")
    found, tally = read(ImageRewardDB(str(file)))
    assert [(record.prompt, record.meta["ranks"]) for record in found] == [("p0", [0, 1]), ("p3", [5, 6])]
    assert tally.faults == {"unlabelled": 3, "broken file": 1} and "row 7: not JSON" in tally.named["broken file"][0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "x", "a": "a", "b": "b", "choice": 2}, "'choice' is 2; expected a, b, tie or a probability"),
        ({"prompt": "x", "a": "a", "b": "b", "choice": "a", "segments": "a"}, "'segments' is 'a'; expected a list"),
        ({"prompt": "x", "file_name": [], "label": 1}, "media: the cell is empty"),
    ],
)
def test_lines_of_a_folder_that_mean_nothing(tmp_path, row, reason):
    write.media(tmp_path, "a", "b")
    with pytest.raises(DataError, match=reason):
        read(Folder(str(write.as_jsonl(tmp_path / "x.jsonl", [row]))))


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({**write.tar_pair(0), "label_1.txt": b"1"}, "labels 1 and 1; expected 1 and 0, or 0.5 twice"),
        ({**write.tar_pair(0), "original_prompt.txt": b"\xff"}, "'original_prompt.txt' is not UTF-8"),
        ({**write.tar_pair(0), "original_prompt.txt": b" "}, "'original_prompt.txt' is empty"),
        ({"txt": b"x", "jpg": b"", "cls": b"1"}, r"x.tar row 0 \('0'\) has no bytes"),
    ],
)
def test_samples_of_a_tar_that_mean_nothing(tmp_path, sample, reason):
    with pytest.raises(DataError, match=reason):
        read(WebDataset(str(write.as_tar(tmp_path / "x.tar", {"0": sample}))))
