"""Votes on disk: appended one by one, read back with ties, conflicts and changed minds counted."""

from __future__ import annotations

import json
import threading

import pytest

from tests.core import preferences as write
from tropism.data.feedback import Feedback, Judged, Vote
from tropism.data.stream import Stream
from tropism.errors import DataError


def vote(a: str, b: str, choice: str, annotator: str = "anna", **more) -> Vote:
    return Vote("a fox", a, b, choice, annotator, seed=7, **more)


def test_a_vote_is_one_line_of_the_agreed_form(tmp_path):
    feedback = Feedback(tmp_path / "run" / "feedback.jsonl")
    assert feedback.read().votes == 0
    feedback.append(vote("1.png", "2.png", "a"))
    feedback.append(vote("2.png", "3.png", "tie", segments=("a", "tie")))
    lines = [json.loads(line) for line in feedback.path.read_text().splitlines()]
    assert lines == [
        {"prompt": "a fox", "a": "1.png", "b": "2.png", "choice": "a", "annotator": "anna", "seed": 7},
        {"prompt": "a fox", "a": "2.png", "b": "3.png", "choice": "tie", "annotator": "anna", "seed": 7, "segments": ["a", "tie"]},
    ]
    assert [list(judgement.votes.values()) for judgement in feedback.read().judgements] == [
        [vote("1.png", "2.png", "a")],
        [vote("2.png", "3.png", "tie", segments=("a", "tie"))],
    ]


def test_ties_conflicts_and_changed_minds_are_counted(tmp_path):
    feedback = Feedback(tmp_path / "feedback.jsonl")
    for one in [
        vote("1", "2", "a", "anna"),
        vote("2", "1", "a", "ben"),  # the other order, and the contrary
        vote("1", "2", "a", "cleo"),
        vote("1", "3", "b", "anna"),
        vote("3", "1", "a", "ben"),  # the other order, and the same
        vote("2", "3", "a", "anna"),
        vote("2", "3", "tie", "anna"),  # changed her mind
    ]:
        feedback.append(one)
    summary = feedback.read()
    assert [(judgement.pair[1:], judgement.choice) for judgement in summary.judgements] == [
        (("1", "2"), pytest.approx(2 / 3)),
        (("1", "3"), 0.0),
        (("2", "3"), 0.5),
    ]
    assert [judgement.pair[1:] for judgement in summary.conflicts] == [("1", "2")]
    assert [judgement.pair[1:] for judgement in summary.ties] == [("2", "3")]
    assert summary.line() == "7 votes on 3 pairs: 1 ties, 1 in conflict, 1 revised, 0 lines unreadable"


def test_a_line_cut_off_by_a_crash_costs_nothing_else(tmp_path):
    feedback = Feedback(tmp_path / "feedback.jsonl")
    feedback.append(vote("1", "2", "a"))
    with feedback.path.open("ab") as stream:
        stream.write(b'{"prompt": "a fo')
    feedback.append(vote("1", "3", "b"))
    summary = feedback.read()
    assert [judgement.pair[1:] for judgement in summary.judgements] == [("1", "2"), ("1", "3")]
    assert len(summary.faults) == 1 and summary.faults[0].startswith("line 2: not JSON")


def test_lines_that_mean_nothing_are_named(tmp_path):
    good = {"prompt": "x", "a": "1", "b": "2", "choice": "a", "annotator": "anna", "seed": 0}
    bad = [
        {**good, "choice": "left"},
        {**good, "b": "1"},
        {**good, "seed": "0"},
        {**good, "segments": "a"},
        {key: value for key, value in good.items() if key != "annotator"},
    ]
    write.as_jsonl(tmp_path / "x.jsonl", [*bad, good])
    summary = Feedback(tmp_path / "x.jsonl").read()
    assert summary.votes == 1 and summary.faults == [
        "line 1: found choice 'left'; expected a, b, tie",
        "line 2: '1' is compared with itself",
        "line 3: 'seed' is '0'; expected a whole number",
        "line 4: 'segments' is 'a'; expected a list of choices",
        "line 5: no 'annotator'; the row has prompt, a, b, choice, seed",
    ]
    with pytest.raises(DataError, match=r"found choice 'ti' .did you mean 'tie'"):
        vote("1", "2", "ti")


def test_writers_at_the_same_time_do_not_mix_lines(tmp_path):
    feedback = Feedback(tmp_path / "feedback.jsonl")

    def many(annotator: str) -> None:
        for number in range(20):
            feedback.append(vote(f"{number}", f"{number}-other", "a", annotator))

    threads = [threading.Thread(target=many, args=(f"annotator {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    summary = feedback.read()
    assert summary.votes == 80 and len(summary.judgements) == 20 and summary.faults == []


def test_feedback_is_a_data_set(tmp_path):
    write.media(tmp_path, "1.png", "2.png", "3.png")
    feedback = Feedback(tmp_path / "feedback.jsonl")
    for one in [
        vote("2.png", "1.png", "a", "anna", segments=("a", "b")),
        vote("1.png", "2.png", "b", "ben", segments=("tie", "a")),
        vote("1.png", "3.png", "tie"),
        vote("2.png", "gone.png", "a"),
    ]:
        feedback.append(one)
    with feedback.path.open("a") as stream:
        stream.write("{}\n")
    stream = Stream(Judged(str(tmp_path)), seed=None)
    (found,) = list(stream.one_pass())
    assert (found.a.read(), found.b.read(), found.choice, found.segments) == ([b"1.png"], [b"2.png"], 0.0, (0.25, 1.0))
    assert found.meta == {"annotators": ["anna", "ben"], "conflict": False}
    assert stream.tally.ties == 1 and stream.tally.faults == {"missing media": 1, "broken file": 1}
    again = Stream(Judged(str(tmp_path)), seed=None)
    again.load_state_dict(stream.state_dict())
    assert next(again) == found
