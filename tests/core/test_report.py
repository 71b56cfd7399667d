"""The report: what a page says must be what the run folder holds, and nothing in the folder may act on the page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tropism import report
from tropism.errors import TropismError
from tropism.report import curves, read, words
from tropism.report.read import Interval, Point
from tropism.report.results import Result, outcome

STEPS = (0, 12, 24, 36, 48)
PROMPTS = [f"a picture of thing {i}" for i in range(20)]
HOSTILE = """</script><script>alert('x')</script>"><img src=x onerror='y'>&amp;"""
VOID = {"meta", "img", "input", "br", "link", "hr"}
METRICS: dict[str, dict[str, Any]] = {
    "image/jpeg-size": {"before": [2.4137, 2.35, 2.47], "after": [1.5226, 1.48, 1.57]},
    "image/alignment-b": {"before": [0.25, 0.24, 0.26], "after": [0.245, 0.235, 0.255]},
    "image/diversity": {"before": [0.4, 0.39, 0.41], "after": [0.3, 0.29, 0.31]},
    "image/frechet": {"before": [8.2, None, None], "after": [16.4, None, None]},
}


class TextView:
    """A view of a modality of the tests' own."""

    kind = "text"

    def html(self, file: Path) -> str:
        return f"<q>{html.escape(file.read_text())}</q>"


VIEWS = {"text": TextView()}


class Page(HTMLParser):
    """The page's tags and text; fails where tags do not nest."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str, css: str = "") -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag and (not css or css in attrs.get("class", "").split())]


def line(step: int, name: str, value: float) -> str:
    return json.dumps({"step": step, "samples": step * 64, "seconds": step * 5.0, "name": name, "value": value}) + "\n"


def write_run(folder: Path, *, media: str = "", summary: dict[str, Any] | None = None, prompts: list[str] = PROMPTS) -> Path:
    """A finished run of 48 updates: 20 prompts x 4 seeds x 5 evaluations."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text("recipe: image/small\nlr: 1.0e-4\n")
    (folder / "env.json").write_text(json.dumps({"torch": "2.13.0", "device": "a small cpu"}))
    lines = []
    for step in range(49):
        share = step / 48
        if step:
            lines += [line(step, "reward/image/jpeg-size", 2.4 - 0.9 * share), line(step, "reward/combined", share)]
            lines += [line(step, "train/ratio", 1 + 1e-5 * step), line(step, "time/rollout", 2.0), line(step, "time/update", 1.0)]
        if step in STEPS:
            for name, ends in METRICS.items():
                for end, a, b in zip(("", "/low", "/high"), ends["before"], ends["after"], strict=True):
                    if a is not None:
                        lines.append(line(step, f"eval/{name}{end}", a + (b - a) * share))
            write_samples(folder, step, media, prompts)
    (folder / "metrics.jsonl").write_text("".join(lines))
    told = {
        "recipe": "image/small", "seed": 7, "seconds": 240.0, "phases": {"rollout": 120.0, "update": 60.0}, "samples": 3072,
        "status": "finished", "trained": ["image/jpeg-size"], "alarms": [], "metrics": METRICS, "units": {"image/jpeg-size": "kB"},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(told | (summary or {})))
    return folder


def write_samples(folder: Path, step: int, media: str, prompts: list[str]) -> None:
    place = folder / "samples" / f"step-{step:08d}"
    place.mkdir(parents=True)
    tiles = []
    for i, prompt in enumerate(prompts):
        for seed in range(4):
            name = f"{4 * i + seed:04d}.txt"
            (place / name).write_text(f"{media}media {step}/{name}")
            scores = {"image/alignment-b": 0.25, "image/jpeg-size": 2 + seed / 10 - step / 48}
            tiles.append({"prompt": prompt, "seed": seed, "file": name, "scores": scores})
    (place / "index.json").write_text(json.dumps({"step": step, "samples": step * 64, "kind": "text", "tiles": tiles}))


def build(folder: Path) -> Page:
    return Page(report.build(folder, VIEWS))


def test_every_number_is_the_summarys(tmp_path: Path) -> None:
    page = build(write_run(tmp_path / "run"))
    values = [float(attrs["value"]) for attrs in page.all("data")]
    assert values == [METRICS[name][side][0] for name in METRICS for side in ("before", "after")]
    assert "jpeg-size 2.41 → 1.52 kB (\u221237 %), alignment-b 0.98\u00d7 of the base" in page.text
    assert "2.35 \u2013 2.47" in page.text and "+100 %" in page.text and "\u221225 %" in page.text
    assert "seed 7 · 4 min 00 s · 3,072 samples · a small cpu" in page.text
    assert page.text.count("intervals overlap") == 1  # only the held-out metric's intervals do


def test_roles_order_the_table_and_the_curves(tmp_path: Path) -> None:
    page = build(write_run(tmp_path / "run"))
    tags = [attrs["class"].split()[1] for attrs in page.all("span", "tag")]
    assert tags == ["trained", "held-out", "diversity", "distance"] * 2
    assert len(page.all("figure", "chart")) == 6  # and two diagnostics: ratio and the combined reward
    assert page.texts.count("train/ratio") == 1 and page.texts.count("reward/combined") == 1


def test_samples_stand_once_each_beside_the_base(tmp_path: Path) -> None:
    page = build(write_run(tmp_path / "run"))
    shown = [text for text in page.texts if text.startswith("media ")]
    assert len(shown) == len(set(shown)) == 20 * 4 * 5
    assert [text for text in page.texts if text in PROMPTS] == PROMPTS
    (slider,) = [attrs for attrs in page.all("input") if attrs.get("type") == "range"]
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "4", "4")
    assert json.loads(slider["data-labels"]) == ["base model", "update 12", "update 24", "update 36", "update 48"]
    for at in range(5):
        assert f'#samples[data-at="{at}"] .at-{at}' in page.source
        assert len(page.all("figure", f"at-{at}")) == 80
    assert [attrs["value"] for attrs in page.all("option")] == ["0", "1"]
    scores = [json.loads(attrs["data-scores"]) for attrs in page.all("span", "score")]
    assert scores[:2] == [["2.15", "0.250"], ["1.90", "0.250"]]  # means of the base model and of update 12, trained score first


def test_page_loads_nothing_and_runs_one_script(tmp_path: Path) -> None:
    page = build(write_run(tmp_path / "run"))
    for tag, attrs in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert not {"src", "href", "srcset", "data", "action", "poster"} & set(attrs) or attrs["src"].startswith("data:")
        assert not [name for name in attrs if name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", page.source)
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.S)
    (policy,) = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run",
        media=HOSTILE,
        prompts=[HOSTILE],
        summary={
            "recipe": HOSTILE, "status": HOSTILE, "alarms": [{"step": 3, "text": HOSTILE}], "phases": {HOSTILE: 1.0},
            "units": {"image/jpeg-size": HOSTILE}, "metrics": METRICS | {HOSTILE: METRICS["image/diversity"]},
        },
    )  # fmt: skip
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line(0, "eval/" + HOSTILE, 1.0) + line(1, "train/" + HOSTILE, 1.0))
    (folder / "recipe.yaml").write_text(HOSTILE)
    (folder / "env.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    for page in (build(folder), Page(report.compare([folder, write_run(tmp_path / "b")], tmp_path / "c.html", VIEWS))):
        assert len(page.all("script")) == 1 and page.all("img") == []
        assert page.text.count(HOSTILE) >= 10
        for attrs in page.all("figure", "chart"):
            json.loads(attrs["data-tips"])


def test_alarms_are_prominent_and_their_absence_is_said(tmp_path: Path) -> None:
    assert "No alarms were raised." in build(write_run(tmp_path / "calm")).text
    page = build(write_run(tmp_path / "loud", summary={"alarms": [{"step": 24, "text": "diversity fell"}]}))
    assert "update 24 diversity fell" in page.text and "No alarms" not in page.text
    assert len(page.all("section", "alarms")) == 1


def test_a_run_that_is_going_on_is_told_from_its_metrics(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 49, "samples": 31')  # the line that is being written
    page = build(folder)
    values = [float(attrs["value"]) for attrs in page.all("data")]
    assert values[:2] == [2.4137, 1.5226]
    assert "jpeg-size 2.41 → 1.52 (\u221237 %)" in page.text
    assert "no summary yet" in page.text and "No alarms were raised" not in page.text
    assert "rollout 1 min 36 s 40 %" in page.text and "update 48 s 20 %" in page.text and "other 1 min 36 s 40 %" in page.text


def test_only_metrics_is_enough(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    page = build(tmp_path)
    assert "Nothing has been evaluated yet." in page.text
    assert page.all("table") == [] and page.all("details") == [] and "Samples" not in page.texts


def test_base_alone_has_no_slider(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line(0, "eval/image/alignment", 0.25))
    write_samples(tmp_path, 0, "", ["a cat"])
    page = build(tmp_path)
    assert [attrs for attrs in page.all("input") if attrs.get("type") == "range"] == []
    assert len(page.all("figure", "at-0")) == 4


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("metrics.jsonl", line(0, "a", 1.0) + "{broken}\n", "metrics.jsonl:2"),
        ("metrics.jsonl", line(0, "a", 1.0) + line(1, "a", 1.0).replace("1.0}", '"x"}'), "metrics.jsonl:2"),
        ("metrics.jsonl", '{"step": 1}\n', "samples: Field required"),
        ("summary.json", '{"recipe": "x"}', "summary.json"),
        ("env.json", "[1]", "env.json"),
        ("samples/step-00000012/index.json", "", "index.json"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, where: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(text)
    with pytest.raises(TropismError, match=re.escape(where)):
        build(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("file", ["../../../secret.txt", "absent.txt", "/etc/hostname", ""])
def test_only_media_beside_the_index_are_embedded(tmp_path: Path, file: str) -> None:
    folder = write_run(tmp_path / "run")
    (tmp_path / "secret.txt").write_text("secret")
    index = folder / "samples/step-00000000/index.json"
    index.write_text(index.read_text().replace('"0000.txt"', json.dumps(file)))
    with pytest.raises(TropismError, match=r"index\.json: names the media file"):
        build(folder)


def test_no_run_and_no_view_are_explained(tmp_path: Path) -> None:
    with pytest.raises(TropismError, match="not a run folder"):
        build(tmp_path / "nowhere")
    folder = write_run(tmp_path / "run")
    with pytest.raises(TropismError, match=r"kind 'text' \(did you mean 'texts'"):
        report.build(folder, {"texts": TextView()})


def test_compare_overlays_curves_and_sets_samples_side_by_side(tmp_path: Path) -> None:
    after = METRICS | {"image/jpeg-size": {"before": [2.4137, 2.35, 2.47], "after": [1.25, 1.2, 1.3]}}
    a, b = write_run(tmp_path / "first"), write_run(tmp_path / "second", summary={"metrics": after, "seed": 8})
    (b / "recipe.yaml").write_text("recipe: image/small\nlr: 3.0e-4\n")
    page = Page(report.compare([a, b], tmp_path / "out" / "page.html", VIEWS))
    assert [float(attrs["value"]) for attrs in page.all("data")][:4] == [2.4137, 1.5226, 2.4137, 1.25]
    assert "seed 7" in page.text and "seed 8" in page.text
    assert "-lr: 1.0e-4 +lr: 3.0e-4" in page.text
    # One recipe run twice: the folders' names tell the runs apart, the base model is shared, and there is no slider.
    assert "first update 48" in page.text.replace("· ", "") and "second update 48" in page.text.replace("· ", "")
    assert [attrs["class"] for attrs in page.all("div", "stack") if "column-" in attrs["class"]] == [
        "stack column-base", "stack column-run-0", "stack column-run-1",
    ]  # fmt: skip
    assert [attrs for attrs in page.all("input") if attrs.get("type") == "range"] == []
    tips = json.loads(page.all("figure", "chart")[0]["data-tips"])
    assert any("first, evaluation 1.52" in tip for tip in tips) and any("second, rollouts" in tip for tip in tips)


def test_compare_shows_no_common_base_where_the_bases_differ(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "first"), write_run(tmp_path / "second", media="other ")]
    page = Page(report.compare(runs, tmp_path / "page.html", VIEWS))
    assert page.all("div", "column-base") == []
    with pytest.raises(TropismError, match="two or more"):
        report.compare(runs[:1], tmp_path / "one.html", VIEWS)


def test_a_step_logged_twice_keeps_its_last_value(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line(1, "a", 1.0) + line(2, "a", 2.0) + line(1, "a", 5.0) + line(3, "a", math.nan))
    values = [point.value for point in read.read(tmp_path).series["a"]]
    assert values[:2] == [5.0, 2.0] and math.isnan(values[2])


def points(*values: float) -> list[Point]:
    return [Point(step=i, samples=i * 10, seconds=i * 3600.0, value=value) for i, value in enumerate(values)]


def test_plot_places_points_on_each_axis() -> None:
    chart = curves.Chart("m", "", "", [curves.Line("m", "red", points(0.0, 1.0, 2.0), {0: -1.0, 2: 1.0}, {0: 1.0, 2: 3.0})])
    by_axis = {plot.axis: plot for plot in chart.plots}
    assert by_axis["updates"].x_ticks == [(54.0, "0"), (199.0, "1"), (344.0, "2")]
    assert [text for _, text in by_axis["samples"].x_ticks] == ["0", "5", "10", "15", "20"]
    assert by_axis["time"].label == "hours"
    drawn = by_axis["updates"].drawn[0]
    (x0, y0), (x1, y1), (x2, y2) = drawn.marks
    assert (x0, x1, x2) == (54.0, 199.0, 344.0) and y0 > y1 > y2 and y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert drawn.path == f"M{x0} {y0}L{x1} {y1}L{x2} {y2}"
    assert [pair.split(",")[0] for pair in drawn.band.split()] == ["54.0", "344.0", "344.0", "54.0"]
    assert chart.tips[0] == "update 0 · 0 samples · 0.0 s\nm 0 \u22121.00 \u2013 1.00"
    assert chart.summary == "m: m 0 at update 0, 2.00 at update 2"


def test_a_line_breaks_where_a_value_is_not_finite_and_a_constant_has_a_middle() -> None:
    chart = curves.Chart("m", "", "", [curves.Line("m", "red", points(3.0, math.nan, 3.0))])
    drawn = chart.plots[0].drawn[0]
    assert drawn.path == "M54.0 86.0M344.0 86.0" and len(drawn.marks) == 2
    single = curves.Chart("m", "", "", [curves.Line("m", "red", points(math.inf))])
    assert single.plots[0].drawn[0].path == ""


def test_long_lines_are_averaged_and_say_so() -> None:
    line = curves.thin(curves.Line("loss", "red", points(*map(float, range(900)))))
    assert len(line.points) == 300 and line.label == "loss (mean of 3)"
    assert (line.points[0].value, line.points[0].step, line.points[-1].value) == (1.0, 2, 898.0)


@pytest.mark.parametrize(
    ("low", "high", "whole", "texts"),
    [
        (0, 60, True, ["0", "10", "20", "30", "40", "50", "60"]),
        (0, 2, True, ["0", "1", "2"]),
        (0, 1, True, ["0", "1"]),
        (0.3612, 0.4212, False, ["0.37", "0.38", "0.39", "0.40", "0.41", "0.42"]),
        (0, 60_000, False, ["0k", "10k", "20k", "30k", "40k", "50k", "60k"]),
        (-1e-4, 0, False, ["\u22121e-4", "\u22128e-5", "\u22126e-5", "\u22124e-5", "\u22122e-5", "0"]),
        (0.99999, 1.00001, False, ["0.999990", "0.999995", "1.000000", "1.000005", "1.000010"]),
    ],
)
def test_ticks(low: float, high: float, whole: bool, texts: list[str]) -> None:
    found = curves.ticks(low, high, 6, whole)
    assert [text for _, text in found] == texts
    assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in found)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1.5226, "1.52"), (0.9999, "1.00"), (0.031, "0.0310"), (-12.34, "\u221212.3"), (152.3, "152"), (999.7, "1,000"),
        (12400, "12,400"), (3.14e-5, "3.1e-05"), (-3.14e-5, "\u22123.1e-05"), (2.5e7, "2.5e+07"), (None, "\u2013"), (math.nan, "\u2013"),
    ],
)  # fmt: skip
def test_number(value: float | None, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (2.0, 1.0, "\u221250 %"), (2.0, 2.0, "+0.0 %"), (1.0, 1.02, "+2.0 %"), (-2.0, -1.5, "+0.500"),
        (0.0, 0.168, "+0.168"), (-1.0, 1.0, "+2.00"), (1.0, -1.0, "\u22122.00"), (math.nan, 1.0, "\u2013"),
    ],
)  # fmt: skip
def test_change(before: float, after: float, text: str) -> None:
    assert words.change(Interval(before), Interval(after)) == text


def test_scores_below_zero_are_told_by_their_difference() -> None:
    rows = [Result("toy/near", "trained", "", Interval(-2.52), Interval(-0.3)), Result("b", "held out", "", Interval(-1.0), Interval(-2.0))]
    assert outcome(rows) == ["near \u22122.52 → \u22120.300 (+2.22)", "b \u22121.00 from the base"]


def test_an_interval_without_bounds_or_width_is_not_printed() -> None:
    assert words.bounds(Interval(1.5, 1.25, 1.75)) == "1.25 \u2013 1.75"
    assert [words.bounds(i) for i in (Interval(1.5), Interval(0.0, 0.0, 0.0), Interval(1.0, math.nan, 2.0))] == ["", "", ""]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.97, "10 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_the_sentence_has_all_that_was_trained_and_the_three_others_that_moved_most():
    def row(name, after, role="held out"):
        return Result(f"m/{name}", role, "", Interval(1.0, 0.9, 1.1), Interval(after, after - 0.1, after + 0.1))

    rows = [
        row("goal", 2.0, "trained"),
        row("a", 1.01),
        row("b", 0.5),
        row("c", -1.0),
        row("d", 1.6),
        row("e", 1.2),
        row("f", 9.0, "distance"),
    ]
    parts = outcome(rows)
    assert [part.split()[0] for part in parts] == ["goal", "b", "d", "e"]
    assert parts[1] == "b 0.50× of the base"
