"""Recipes: every mistake at once, at its line, with the nearest right name."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from tropism.errors import RecipeError
from tropism.recipe import Recipe, Train, locate, parse, read

GOOD = """\
name: a/b
policy: {use: toy/mixture}
data: {use: prompts, train: [x]}
rollout:
  sampler: {use: ddim, eta: 1.0}
  steps: 10
  samples: 64
  batch: 32
rewards:
  - use: toy/near
    weight: 2
optimizer:
  use: policy-gradient
train:
  iterations: 3
  lr: 3e-4
"""


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as told:
        parse(text, "r.yaml", overrides)
    return str(told.value).splitlines()


def test_a_recipe_is_read_with_its_defaults():
    made = parse(GOOD, "r.yaml")
    assert made.train.lr == 3e-4 and isinstance(made.train.lr, float)
    assert made.rollout.sampler.arguments == {"eta": 1.0}
    assert made.rewards[0].weight == 2.0 and made.rewards[0].normalise == "none"
    assert (made.adapter.kind, made.credit.use, made.rollout.group, made.train.updates, made.guard) == ("lora", "batch", 1, 1, None)


def test_five_different_mistakes_are_all_listed_in_order_with_lines_and_nearest_names():
    text = (
        GOOD.replace("  steps: 10", "  step: 10")  # line 6: unknown, and so 'steps' is missing on line 4
        .replace("    weight: 2", "    weight: heavy")  # line 11
        .replace("  iterations: 3", "  iterations: -3")  # line 15
        .replace("  lr: 3e-4", "  lr: 3e-4\n  precison: bf16")  # line 17
        + "credits: {use: batch}\n"  # line 18
    )
    assert mistakes(text) == [
        "r.yaml: 6 mistakes",
        "  line 4: 'rollout.steps' is missing",
        "  line 6: unknown key 'rollout.step' (did you mean 'steps'?)",
        "  line 11: rewards.0.weight: Input should be a valid number, unable to parse string as a number; found 'heavy'",
        "  line 15: train.iterations: Input should be greater than or equal to 0; found -3",
        "  line 17: unknown key 'train.precison' (did you mean 'precision'?)",
        "  line 18: unknown key 'credits' (did you mean 'credit'?)",
    ]


def test_a_key_given_twice_is_refused_with_both_lines():
    lines = mistakes(GOOD.replace("  lr: 3e-4", "  lr: 3e-4\n  lr: 1e-5"))
    assert lines == ["r.yaml: 1 mistake", "  line 17: train.lr is given twice (first on line 16)"]
    assert "  line 17: name is given twice (first on line 1)" in mistakes(GOOD + "name: other\n")


def test_a_key_given_twice_inside_braces_is_refused():
    assert "  line 5: rollout.sampler.eta is given twice (first on line 5)" in mistakes(GOOD.replace("eta: 1.0", "eta: 1.0, eta: 0.5"))


def test_unknown_keys_of_nested_parts_get_names_of_that_part():
    assert "  line 17: unknown key 'evaluate.per_prompts' (did you mean 'per_prompt'?)" in mistakes(GOOD + "evaluate: {per_prompts: 3}\n")
    assert "  line 17: unknown key 'guard.keeps' (did you mean 'keep'?)" in mistakes(GOOD + "guard: {metric: a, keeps: 1}\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("samples: 64", "samples: 60"), "  line 7: rollout.samples must be a multiple of rollout.batch; 60 is not a multiple of 32"),
        (("batch: 32", "group: 3"), "  line 7: rollout.samples must be a multiple of rollout.group; 64 is not a multiple of 3"),
        (("lr: 3e-4", "updates: 5"), "  line 7: rollout.samples must be a multiple of train.updates; 64 is not a multiple of 5"),
    ],
)
def test_what_does_not_divide_is_refused_at_the_line_of_the_samples(change, message):
    assert message in mistakes(GOOD.replace(*change))


def test_all_that_does_not_divide_is_listed():
    lines = mistakes(GOOD.replace("samples: 64", "samples: 50\n  group: 4").replace("lr: 3e-4", "updates: 3"))
    assert lines[0] == "r.yaml: 3 mistakes"
    assert {re.search(r"multiple of (\S+);", line)[1] for line in lines[1:]} == {"rollout.group", "rollout.batch", "train.updates"}


def test_a_reward_named_twice_is_refused():
    text = GOOD.replace("    weight: 2", "    weight: 2\n  - use: toy/near")
    assert "  line 9: rewards: reward named twice: toy/near" in mistakes(text)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "3"])
def test_what_is_no_mapping_is_refused(text):
    assert "expected keys and values" in mistakes(text)[0]


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "!!python/object/apply:os.system ['true']", "a: \t- x\n\t b"])
def test_what_is_no_safe_yaml_is_refused(text):
    assert "is not YAML" in mistakes(text)[0]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: No such file"):
        read(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("1e3", 1000.0), ("-2E+2", -200.0), ("1.5e-7", 1.5e-7), ("2.e2", 200.0), ("0.1", 0.1), ("7", 7)],
)
def test_numbers_are_read_as_everyone_writes_them(text, value):
    made = parse(GOOD.replace("eta: 1.0", f"eta: {text}"), "r.yaml")
    assert made.rollout.sampler.arguments["eta"] == value
    assert type(made.rollout.sampler.arguments["eta"]) is type(value)


@pytest.mark.parametrize("text", ["'3e-4'", "e5", "3e", "v3e-4"])
def test_words_that_only_look_like_numbers_stay_words(text):
    assert isinstance(parse(GOOD.replace("eta: 1.0", f"eta: {text}"), "r").rollout.sampler.arguments["eta"], str)


def test_overrides_replace_add_and_reach_into_lists():
    made = parse(
        GOOD,
        "r.yaml",
        [
            "train.lr=1e-2",
            "rewards.0.weight=-1",
            "seed=7",
            "evaluate.prompts=3",
            "rollout.sampler={use: consistency}",
            "guard={metric: toy/near}",
        ],
    )
    assert (made.train.lr, made.rewards[0].weight, made.seed, made.evaluate.prompts) == (0.01, -1.0, 7, 3)
    assert made.rollout.sampler.use == "consistency" and made.rollout.sampler.arguments == {}
    assert made.guard is not None and made.guard.metric == "toy/near"


def test_an_override_into_an_empty_part_fills_it():
    assert parse(GOOD + "evaluate:\n", "r.yaml", ["evaluate.every=3"]).evaluate.every == 3


def test_a_misspelt_override_is_refused_with_the_nearest_name():
    assert "  line 14: unknown key 'train.lrr' (did you mean 'lr'?)" in mistakes(GOOD, "train.lrr=1")
    assert any("unknown key 'trian'" in line and "did you mean 'train'?" in line for line in mistakes(GOOD, "trian.lr=1"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "expected dotted.path=value"),
        ("=3", "expected dotted.path=value"),
        ("train.lr=[1", "the value is not YAML"),
        ("name.first=x", "there is no 'first' inside a str"),
        ("train.lr.x.y=1", "there is no 'x' inside a float"),
        ("rewards.7.weight=1", "'7' is no place in a list of 1"),
        ("rewards.first=1", "'first' is no place in a list of 1"),
    ],
)
def test_an_override_that_cannot_be_is_refused_by_name(override, message):
    (line, *_) = mistakes(GOOD, override)
    assert f"override '{override}'" in line and message in line


def test_dump_reads_back_as_the_same_recipe():
    made = parse(GOOD + "guard: {metric: toy/near}\nadapter: {ema: 0.99, targets: [to_q]}\ntrack: [{use: wandb, project: p}]\n", "r.yaml")
    assert parse(made.dump(), "again") == made


def test_arithmetic_follows_from_the_recipe():
    made = parse(GOOD.replace("batch: 32", "batch: 32\n  group: 4").replace("lr: 3e-4", "updates: 2\n  passes: 3"), "r.yaml")
    assert made.arithmetic() == {
        "samples per iteration": 64,
        "prompts per iteration": 16,
        "samples in all": 192,
        "optimizer steps in all": 18,
        "samples per optimizer step": 32,
        "evaluation samples": 96,
    }


def test_the_learning_rate_rises_and_falls_as_asked():
    flat = Train(iterations=4, lr=0.5)
    assert [flat.rate(step) for step in range(4)] == [0.5] * 4
    shaped = Train(iterations=10, lr=1.0, warmup=2, decay=0.5)
    assert [shaped.rate(step) for step in range(10)] == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert Train(iterations=4, lr=1.0, decay=1.0).rate(3) == 0.25, "the last iteration still learns"


def test_a_recipe_cannot_be_changed_in_place():
    made = parse(GOOD, "r.yaml")
    with pytest.raises(ValueError, match="frozen"):
        made.seed = 3


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 201])
def test_names_that_would_make_bad_folders_are_refused(name):
    assert any("name" in line for line in mistakes(GOOD.replace("name: a/b", f"name: '{name}'"))[1:])


def test_locate_gives_the_line_of_every_key():
    lines = locate(GOOD)
    assert lines["rollout",] == 4 and lines["rollout", "sampler"] == 5 and lines["rewards", 0] == 10 and lines["rewards", 0, "weight"] == 11


def test_every_recipe_of_the_core_is_valid():
    found = list(files("tropism").joinpath("recipes").iterdir())
    assert found
    for file in found:
        assert isinstance(parse(file.read_text(), file.name), Recipe)
