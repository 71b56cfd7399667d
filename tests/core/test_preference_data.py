"""Readers of preferences and labels, each on files in the layout that was released."""

from __future__ import annotations

import pytest

from tests.core import preferences as write
from tropism.data.faults import BadRow
from tropism.data.folder import Folder
from tropism.data.hpd import Hpd2, Hpd3
from tropism.data.imagereward import ImageRewardDB
from tropism.data.kto import Kto
from tropism.data.layout import Layout
from tropism.data.pickapic import PickAPic
from tropism.data.records import Label, Preference
from tropism.data.stream import Stream
from tropism.data.trl import Trl
from tropism.data.unpaired import Unpaired
from tropism.data.videoalign import VideoAlign
from tropism.data.videofeedback import ASPECTS, VideoFeedback
from tropism.data.webdataset import WebDataset
from tropism.errors import DataError

pytest.importorskip("pyarrow")


def records(layout: Layout, ties="keep") -> list:
    return list(Stream(layout, seed=None, ties=ties).one_pass())


def pair(record: Preference) -> tuple:
    return record.prompt, b"".join(record.a.read()), b"".join(record.b.read()), record.choice


def test_pick_a_pic(tmp_path):
    rows = [write.pickapic_row(0), write.pickapic_row(1, 0.0), write.pickapic_row(2, 0.5)]
    write.pickapic(tmp_path / "data" / "train-00000-of-00645.parquet", rows)
    found = records(PickAPic(str(tmp_path)))
    assert [pair(record) for record in found] == [
        ("prompt 0", b"left 0", b"right 0", 1.0),
        ("prompt 1", b"left 1", b"right 1", 0.0),
        ("prompt 2", b"left 2", b"right 2", 0.5),
    ]
    assert found[0].meta["ranking_id"] == 1000 and found[0].meta["num_example_per_prompt"] == 3 and "jpg_0" not in found[0].meta


def test_pick_a_pic_without_images_takes_them_from_a_folder(tmp_path):
    row = {name: value for name, value in write.pickapic_row(0, 0.0).items() if not name.startswith("jpg")}
    write.pickapic(tmp_path / "train.parquet", [row])
    write.media(tmp_path / "pictures", "uid-0-0.jpg", "uid-0-1.jpg")
    (found,) = records(PickAPic(str(tmp_path), images=str(tmp_path / "pictures")))
    assert pair(found) == ("prompt 0", b"uid-0-0.jpg", b"uid-0-1.jpg", 0.0)
    with pytest.raises(DataError, match=r"missing column: 1\n.*no 'jpg_0'"):
        records(PickAPic(str(tmp_path)))


def test_hpd2_train_and_test(tmp_path):
    write.media(tmp_path, "train/000.jpg", "train/001.jpg", "test/a.jpg", "test/b.jpg", "test/c.jpg")
    write.as_json(tmp_path / "train.json", [{"human_preference": [0, 1], "prompt": "a fox", "file_path": ["000.jpg", "001.jpg"]}])
    ranked = {"prompt": "a cat", "image_path": ["a.jpg", "b.jpg", "c.jpg"], "rank": [2, 1, 2]}
    write.as_json(tmp_path / "test.json", [{**ranked, "raw_annotations": [{"rank": [2, 1, 3], "user_hash": "x"}]}])
    assert [pair(record) for record in records(Hpd2(str(tmp_path / "train.json")))] == [("a fox", b"000.jpg", b"001.jpg", 0.0)]
    assert [pair(record) for record in records(Hpd2(str(tmp_path / "test.json")))] == [
        ("a cat", b"a.jpg", b"b.jpg", 0.0),
        ("a cat", b"a.jpg", b"c.jpg", 0.5),
        ("a cat", b"b.jpg", b"c.jpg", 1.0),
    ]


def test_hpd3_has_soft_choices_and_a_threshold(tmp_path):
    write.media(tmp_path, "images/1.jpg", "images/2.jpg")
    base = {"prompt": "a fox", "path1": "images/1.jpg", "path2": "images/2.jpg", "model1": "flux", "model2": "sdxl"}
    rows = [
        {**base, "confidence": 0.99, "choice_dist": [3, 9]},  # path1 is the preferred one in whatever order the votes are
        {**base, "confidence": 0.6, "choice_dist": [6, 4]},
        {**base, "confidence": None, "choice_dist": None},
    ]
    file = str(write.as_json(tmp_path / "train.json", rows))
    assert [record.choice for record in records(Hpd3(file))] == [0.75, 0.6, 1.0]
    assert [record.choice for record in records(Hpd3(file, soft=False))] == [1.0, 1.0, 1.0]
    stream = Stream(Hpd3(file, confidence=0.95), seed=None)
    found = list(stream.one_pass())
    assert [record.choice for record in found] == [0.75, 1.0] and stream.tally.faults == {"filtered": 1}
    assert pair(found[0])[:3] == ("a fox", b"1.jpg", b"2.jpg") and found[0].meta["model1"] == "flux"


def image_reward_rows() -> list[dict]:
    base = {"classification": "People", "image_text_alignment_rating": 3, "fidelity_rating": 4}
    rows = [("p1", "x", 2, 3), ("p2", "u", 1, 2), ("p1", "y", 1, 3), ("p2", "v", 1, 2), ("p1", "z", 3, 3)]
    return [
        {
            "image_path": f"images/train/train_1/{name}.webp",
            "prompt_id": prompt,
            "prompt": f"words of {prompt}",
            "image_amount_in_total": total,
            "rank": rank,
            "overall_rating": 8 - rank,
            **base,
        }
        for prompt, name, rank, total in rows
    ]


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_image_reward_db_pairs_what_belongs_to_a_prompt(tmp_path, form):
    write.media(tmp_path, *(f"images/train/train_1/{name}.webp" for name in "xyzuv"))
    if form == "json":
        file = write.as_json(tmp_path / "images/train/train_1/train_1.json", image_reward_rows())
    else:
        file = write.parquet(tmp_path / "metadata-train.parquet", image_reward_rows())
    found = records(ImageRewardDB(str(file)))
    assert [pair(record) for record in found] == [
        ("words of p2", b"u.webp", b"v.webp", 0.5),  # complete first
        ("words of p1", b"x.webp", b"y.webp", 0.0),
        ("words of p1", b"x.webp", b"z.webp", 1.0),
        ("words of p1", b"y.webp", b"z.webp", 1.0),
    ]
    assert found[1].meta["overall_rating"] == [6, 7] and found[1].meta["ranks"] == [2, 1]


def test_image_reward_db_as_the_loading_script_unpacks_it(tmp_path):
    write.media(tmp_path, *(f"train_1/{name}.webp" for name in "xyzuv"))
    file = write.as_json(tmp_path / "train_1" / "train_1.json", image_reward_rows())
    assert len(records(ImageRewardDB(str(file)))) == 4
    stream = Stream(ImageRewardDB(str(file), images=str(tmp_path / "nowhere")), seed=None)
    with pytest.raises(DataError, match=r"missing media: 4\n.*train_1.json row 1 image: .*nowhere.*u\.webp not found"):
        next(stream)


def video_feedback_row(identity: str, score: int) -> dict:
    conversation = [{"from": "human", "value": "rate"}, {"from": "gpt", "value": "3"}]
    row = {"id": identity, "images": [f"{identity}_00.jpg", f"{identity}_01.jpg"], "text prompt": "a dog runs", "video link": "https://x"}
    return {**row, **dict.fromkeys(ASPECTS, score), "dynamic degree": 4, "conversations": conversation}


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_video_feedback_labels_clips_by_their_scores(tmp_path, form):
    rows = [video_feedback_row("f000001", 1), video_feedback_row("f000002", 3)]
    file = write.parquet(tmp_path / "train.parquet", rows) if form == "parquet" else write.as_json(tmp_path / "data_annotated.json", rows)
    write.media(tmp_path / "frames", "f000001/f000001_00.jpg", "f000001/f000001_01.jpg", "f000002.mp4")
    found = records(VideoFeedback(str(file), media=str(tmp_path / "frames")))
    assert [(label.prompt, label.label, label.meta["score"]) for label in found] == [("a dog runs", False, 1.6), ("a dog runs", True, 3.2)]
    assert [label.media.read() for label in found] == [[b"f000001_00.jpg", b"f000001_01.jpg"], [b"f000002.mp4"]]
    by_motion = records(VideoFeedback(str(file), media=str(tmp_path / "frames"), aspect="dynamic degree"))
    assert [label.label for label in by_motion] == [True, True]
    with pytest.raises(DataError, match=r"no aspect 'dynamic degre' .did you mean 'dynamic degree'"):
        VideoFeedback(str(file), aspect="dynamic degre")


def test_video_align_takes_an_aspect_or_their_mean(tmp_path):
    write.media(tmp_path, "videos/a.mp4", "videos/b.mp4")
    base = {"path_A": "videos/a.mp4", "path_B": "videos/b.mp4", "prompt": "a dog, running"}
    rest = {"fps_A": 8, "num_frames_A": 49, "fps_B": 8, "num_frames_B": 49}
    rows = [
        {**base, "VQ": "A", "MQ": "same", "TA": "B", **rest},
        {**base, "VQ": "A", "MQ": "A", "TA": "invalid", **rest},
        {**base, "VQ": "invalid", "MQ": "invalid", "TA": "invalid", **rest},
    ]
    file = str(write.as_csv(tmp_path / "train.csv", rows))
    assert [record.choice for record in records(VideoAlign(file))] == [0.5, 1.0]
    assert [record.choice for record in records(VideoAlign(file, aspect="TA"))] == [0.0]
    found = records(VideoAlign(file))[0]
    assert pair(found)[:3] == ("a dog, running", b"a.mp4", b"b.mp4") and found.meta["num_frames_A"] == "49"
    bench = write.as_csv(
        tmp_path / "bench.csv", [{**base, "A_model": "x", "B_model": "y", "VQ": "A", "MQ": "A", "TA": "A", "Overall": "B"}]
    )
    assert [record.choice for record in records(VideoAlign(str(bench)))] == [0.0]


def test_trl_columns_in_all_their_forms(tmp_path):
    write.media(tmp_path, "good.png", "bad.png")
    shown = [{"role": "user", "content": "a fox"}, {"role": "assistant", "content": [{"type": "image", "image": "good.png"}]}]
    hidden = [{"role": "user", "content": "a fox"}, {"role": "assistant", "content": [{"type": "image", "image": "bad.png"}]}]
    rows = [
        {"prompt": "a fox", "chosen": "good.png", "rejected": "bad.png"},
        {"chosen": shown, "rejected": hidden},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "a fox"}]}], "chosen": shown[1:], "rejected": hidden[1:]},
    ]
    found = records(Trl(str(write.as_jsonl(tmp_path / "pairs.jsonl", rows))))
    assert [pair(record) for record in found] == [("a fox", b"good.png", b"bad.png", 1.0)] * 3
    unpaired = [{"prompt": "a fox", "completion": "good.png", "label": True}, {"prompt": "a cat", "completion": "bad.png", "label": False}]
    labels = records(Trl(str(write.as_jsonl(tmp_path / "labels.jsonl", unpaired))))
    assert [(label.prompt, label.media.read(), label.label) for label in labels] == [
        ("a fox", [b"good.png"], True),
        ("a cat", [b"bad.png"], False),
    ]


def test_trl_columns_in_parquet_as_the_datasets_library_stores_media(tmp_path):
    sound = {"bytes": b"RIFF good", "path": "1.wav"}
    write.media(tmp_path, "2.wav")
    row = {"prompt": "rain", "chosen": sound, "rejected": {"bytes": None, "path": "2.wav"}, "strategy": "swap"}  # audio-alpaca's columns
    (found,) = records(Trl(str(write.parquet(tmp_path / "train.parquet", [row]))))
    assert pair(found) == ("rain", b"RIFF good", b"2.wav", 1.0) and found.meta == {"strategy": "swap"}


@pytest.mark.parametrize(("columns", "folder"), [(("file_name", "split"), ""), (("file_path", "label"), "train/")])
def test_kto_csv_in_both_spellings(tmp_path, columns, folder):
    path, split = columns
    write.media(tmp_path, *(f"{folder}{name}.jpg" for name in "abc"))
    values = [("a.jpg", "exclusive_win"), ("b.jpg", "exclusive_lose"), ("c.jpg", "intersections")]
    rows = [{path: name, "caption": f"prompt, {name}", split: value} for name, value in values]
    file = str(write.as_csv(tmp_path / "train_processed_v3.csv", rows))
    assert [(label.prompt, label.label) for label in records(Kto(file))] == [
        ("prompt, a.jpg", True),
        ("prompt, b.jpg", False),
        ("prompt, c.jpg", True),
    ]
    assert [label.label for label in records(Kto(file, intersections="bad"))] == [True, False, False]
    assert [label.label for label in records(Kto(file, intersections="skip"))] == [True, False]


def test_a_plain_csv_of_labels(tmp_path):
    write.media(tmp_path, "a.png", "b.png")
    rows = [{"prompt": "x", "completion": "a.png", "label": "True"}, {"prompt": "y", "completion": "b.png", "label": "0"}]
    assert [label.label for label in records(Kto(str(write.as_csv(tmp_path / "x.csv", rows))))] == [True, False]


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_webdataset_pairs_and_labels(tmp_path, suffix):
    pairs = {f"shard/{number:06d}": write.tar_pair(number, label) for number, label in enumerate(["1", "0", "0.5"])}
    labels = {"000010": {"txt": b"a fox", "png": b"fox", "cls": b"1"}, "000011": {"txt": b"a cat", "webp": b"cat", "cls": b"0"}}
    found = records(WebDataset(str(write.as_tar(tmp_path / f"00000.{suffix}", {**pairs, **labels}))))
    assert [pair(record) for record in found[:3]] == [
        ("prompt 0", b"left 0", b"right 0", 1.0),
        ("prompt 1", b"left 1", b"right 1", 0.0),
        ("prompt 2", b"left 2", b"right 2", 0.5),
    ]
    assert [(label.prompt, label.media.read(), label.label) for label in found[3:]] == [
        ("a fox", [b"fox"], True),
        ("a cat", [b"cat"], False),
    ]


def test_a_plain_folder(tmp_path):
    write.media(tmp_path, "1.png", "2.png")
    rows = [
        {"prompt": "x", "a": "1.png", "b": "2.png", "choice": "b", "segments": ["a", "tie", "b"], "annotator": "anna", "seed": 3},
        {"caption": "y", "a": "1.png", "b": "2.png", "choice": 0.7, "weight": 2},
        {"text": "z", "chosen": "1.png", "rejected": "2.png"},
        {"prompt": "w", "file_name": "2.png", "label": False},
    ]
    write.as_jsonl(tmp_path / "metadata.jsonl", rows)
    found = records(Folder(str(tmp_path)))
    assert [pair(record) for record in found[:3]] == [
        ("x", b"1.png", b"2.png", 0.0),
        ("y", b"1.png", b"2.png", 0.7),
        ("z", b"1.png", b"2.png", 1.0),
    ]
    assert found[0].segments == (1.0, 0.5, 0.0) and found[0].meta == {"annotator": "anna", "seed": 3}
    assert found[1].weight == 2 and found[3] == Label("w", found[3].media, False)


def test_pairs_read_as_labels(tmp_path):
    file = write.pickapic(tmp_path / "x.parquet", [write.pickapic_row(0, 0.0), write.pickapic_row(1, 0.5)])
    found = records(Unpaired(PickAPic(str(file))))
    assert [(label.prompt, label.media.read(), label.label) for label in found] == [
        ("prompt 0", [b"left 0"], False),
        ("prompt 0", [b"right 0"], True),
    ]


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data '.*none' not found; expected a file or a folder with \.parquet files"):
        PickAPic(str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"has no \.tar or \.tar\.gz or \.tgz file"):
        WebDataset(str(tmp_path))
    with pytest.raises(DataError, match="intersections is 'ok'; expected one of good, bad, skip"):
        Kto(str(write.as_csv(tmp_path / "a.csv", [{"x": 1}])), intersections="ok")
    with pytest.raises(AssertionError):
        BadRow("no such kind", "")
