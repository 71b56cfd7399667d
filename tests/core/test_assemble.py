"""What cannot work together is refused before any weight is loaded, at its line."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from tropism import api, assemble, plugins
from tropism.diffusion.flow_samplers import Ode
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.entry import Entry
from tropism.errors import RecipeError
from tropism.recipe import Part, parse

GOOD = """\
name: a/b
policy: {use: toy/mixture}
data: {use: prompts, train: [x], heldout: [y, z]}
rollout:
  sampler: {use: ddim, eta: 1.0}
  steps: 10
  group: 1
rewards:
  - use: toy/near
    x: 1.5
credit: {use: batch}
optimizer: {use: policy-gradient, clip: 1e-3}
train: {iterations: 3}
"""


def scaled(points, scale, shift=0.0):
    return points[:, 0] * scale + shift


@pytest.fixture
def catalog():
    found = plugins.manager()[1]
    module = types.ModuleType("my_parts")
    module.scaled, module.number = scaled, 3
    module.picture = lambda image, caption: image
    sys.modules["my_parts"] = module
    for name in ("scaled", "picture", "number"):
        found.entries["rewards"][f"my/{name}"] = Entry(f"my/{name}", f"my_parts:{name}", "")
    yield found
    del sys.modules["my_parts"]


def problems(catalog, *changes: tuple[str, str], text: str = GOOD) -> list[str]:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(RecipeError) as told:
        assemble.check(parse(text, "r.yaml"), catalog, text, "r.yaml")
    return str(told.value).splitlines()


def test_a_good_recipe_gives_its_parts(catalog):
    parts = assemble.check(parse(GOOD, "r"), catalog, GOOD)
    assert parts.sampler == DDIM(1.0)
    assert parts.optimizer.clip == 1e-3
    assert parts.train == [{"prompt": "x"}] and parts.heldout == [{"prompt": "y"}, {"prompt": "z"}]


def test_a_deterministic_sampler_cannot_have_a_policy_gradient(catalog):
    lines = problems(catalog, ("eta: 1.0", "eta: 0"))
    assert lines[0] == "r.yaml: 1 mistake"
    assert lines[1].startswith(
        "  line 5: rollout.sampler: 'policy-gradient' learns from noisy steps, but 'ddim' with these arguments and 10 steps has none"
    )


@pytest.mark.parametrize("sampler", ["{use: consistency}", "{use: ddim, eta: 1.0}"])
def test_a_single_step_has_no_noise_to_learn_from(catalog, sampler):
    lines = problems(catalog, ("{use: ddim, eta: 1.0}", sampler), ("steps: 10", "steps: 1"))
    assert "  line 5: rollout.sampler" in lines[1] and "1 steps has none" in lines[1]


def test_two_consistency_steps_are_enough(catalog):
    text = GOOD.replace("{use: ddim, eta: 1.0}", "{use: consistency}").replace("steps: 10", "steps: 2")
    assert assemble.check(parse(text, "r"), catalog, text).sampler == Consistency()


@pytest.mark.parametrize(
    ("sampler", "steps", "noisy"), [(DDIM(1.0), 10, 9), (DDIM(0.0), 10, 0), (Consistency(), 4, 3), (Consistency(), 1, 0)]
)
def test_noisy_steps_counts_the_steps_whose_noise_reaches_the_sample(sampler, steps, noisy):
    assert assemble.noisy_steps(sampler, steps) == noisy


def test_group_credit_needs_siblings(catalog):
    (_, line) = problems(catalog, ("credit: {use: batch}", "credit: {use: group}"))
    assert line == "  line 7: rollout.group: credit 'group' compares at least 2 samples of a prompt, but rollout.group is 1"


def test_unknown_parts_are_all_listed_with_their_nearest_names(catalog):
    changes = (
        ("toy/mixture", "toy/mixtures"),
        ("use: ddim", "use: dim"),
        ("toy/near", "toy/neer"),
        ("use: batch", "use: bach"),
        ("policy-g", "policyg"),
    )
    lines = problems(catalog, *changes)
    assert lines[0] == "r.yaml: 5 mistakes"
    for number, kind, name in (
        (2, "policies", "toy/mixture"),
        (5, "samplers", "ddim"),
        (9, "rewards", "toy/near"),
        (11, "credits", "batch"),
        (12, "optimizers", "policy-gradient"),
    ):
        assert any(
            line.startswith(f"  line {number}: ") and f"no {kind} entry" in line and f"(did you mean '{name}'?)" in line for line in lines
        ), name


def test_unknown_arguments_are_listed_with_the_nearest_one(catalog):
    lines = problems(catalog, ("eta: 1.0", "etta: 1.0"), ("    x: 1.5", "    z: 1.5"), ("clip: 1e-3", "klip: 1e-3"))
    assert lines == [
        "r.yaml: 3 mistakes",
        "  line 5: rollout.sampler: 'ddim' takes no argument 'etta' (did you mean 'eta'?); it takes eta",
        "  line 9: rewards.0: 'toy/near' takes no argument 'z'; it takes x, y",
        "  line 12: optimizer: 'policy-gradient' takes no argument 'klip' (did you mean 'clip'?); "
        "it takes clip, advantage_clip, kl, normalise",
    ]


def test_a_missing_argument_is_named_for_classes_and_for_factories(catalog):
    lines = problems(catalog, ("{use: prompts, train: [x], heldout: [y, z]}", "{use: prompts}"), ("{use: toy/mixture}", "{use: pipeline}"))
    assert "  line 2: policy: 'pipeline' needs the argument 'source'" in lines
    assert "  line 3: data: 'prompts' needs the argument 'train'" in lines


def test_an_argument_with_a_bad_value_is_refused_at_its_part(catalog):
    (_, line) = problems(catalog, ("{use: batch}", "{use: group, scale: world}"), ("group: 1", "group: 2"))
    assert line.startswith("  line 11: credit: scale: 'world'; expected 'group' or 'batch'")


def test_a_reward_that_needs_what_the_policy_does_not_give_is_refused(catalog):
    lines = problems(catalog, ("    x: 1.5", "  - use: my/picture"))
    assert lines == [
        "r.yaml: 1 mistake",
        "  line 10: rewards.1: 'my/picture' needs image, caption, but 'toy/mixture' on this data gives points, prompt, seed, t, x0",
    ]


def test_a_watched_reward_is_checked_as_a_trained_one_is(catalog):
    lines = problems(catalog, ("train: {iterations: 3}", "train: {iterations: 3}\nevaluate:\n  rewards:\n    - use: my/picture"))
    assert lines[1].startswith("  line 16: evaluate.rewards.0: 'my/picture' needs image, caption")


def test_what_a_pipeline_gives_is_not_known_before_it_is_loaded_so_nothing_is_refused_for_it(catalog):
    text = GOOD.replace("{use: toy/mixture}", "{use: pipeline, source: /nowhere}")
    assert assemble.check(parse(text, "r"), catalog, text).train == [{"prompt": "x"}]


def test_a_guard_on_what_is_not_evaluated_is_refused(catalog):
    lines = problems(catalog, ("train: {iterations: 3}", "train: {iterations: 3}\nguard: {metric: toy/nea}"))
    assert lines[1] == "  line 14: guard: guard.metric 'toy/nea' is not evaluated (did you mean 'toy/near'?)"


def test_what_cannot_be_built_is_refused(catalog):
    assert "'my/number' is a int, which cannot be built" in problems(catalog, ("toy/near\n    x: 1.5", "my/number"))[1]


def test_a_plain_function_is_a_reward_as_it_stands(catalog):
    catalog.entries["rewards"]["my/plain"] = Entry("my/plain", "my_parts:scaled", "")
    assert assemble.make(catalog, "rewards", Part(use="my/plain")) is scaled


def test_arguments_of_a_plain_function_reach_it_and_are_not_needed_from_the_samples(catalog):
    text = GOOD.replace("toy/near\n    x: 1.5", "my/scaled\n    scale: 3.0\n    shift: 1.0")
    recipe = parse(text, "r")
    assemble.check(recipe, catalog, text)
    combined, watched = assemble.rewards(recipe, catalog)
    assert watched == {}
    assert torch.equal(combined.parts[0].reward(points=torch.tensor([[2.0, 9.0]])), torch.tensor([7.0]))


def test_a_plain_function_that_lacks_an_argument_is_refused(catalog):
    (_, line) = problems(catalog, ("toy/near\n    x: 1.5", "my/scaled"))
    assert "'my/scaled' needs scale, but" in line


def test_rewards_are_built_with_weight_and_arguments(catalog):
    text = GOOD.replace("    x: 1.5", "    x: 1.5\n    weight: -2\n    normalise: running")
    combined, _ = assemble.rewards(parse(text, "r"), catalog)
    (part,) = combined.parts
    assert (part.name, part.weight, part.normalise) == ("toy/near", -2.0, "running")
    assert part.reward.goal.tolist() == [1.5, 0.0]


def test_describe_shows_arguments_with_their_defaults(catalog):
    assert assemble.describe(catalog.find("optimizers", "policy-gradient")).splitlines() == [
        "clip: float = 0.0001",
        "advantage_clip: float = 5.0",
        "kl: float = 0.0",
        "normalise: bool = False",
    ]


def test_mistakes_of_the_form_and_of_the_parts_are_told_together(catalog, tmp_path):
    text = (
        GOOD.replace("toy/mixture", "toy/mixtur")  # line 2
        .replace("eta: 1.0", "etta: 1.0")  # line 5
        .replace("  steps: 10", "  step: 10")  # line 6, and 'steps' is missing on line 4
        .replace("x: 1.5", "weight: heavy")  # line 10
        .replace("clip: 1e-3", "clipp: 1e-3")  # line 12
    )
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError) as told:
        api.load_recipe(str(tmp_path / "r.yaml"), catalog)
    lines = str(told.value).splitlines()
    assert lines[0].endswith("6 mistakes")
    expected = ("line 2: policy: no policies entry 'toy/mixtur' (did you mean 'toy/mixture'?)", "line 4: 'rollout.steps' is missing")
    expected += ("line 5: rollout.sampler: 'ddim' takes no argument 'etta' (did you mean 'eta'?)", "line 6: unknown key 'rollout.step'")
    expected += ("line 10: rewards.0.weight", "line 12: optimizer: 'policy-gradient' takes no argument 'clipp' (did you mean 'clip'?)")
    assert all(line.strip().startswith(start) for line, start in zip(lines[1:], expected, strict=True)), lines


def test_samplers_that_are_deterministic_cannot_have_a_policy_gradient(catalog):
    for sampler in ("{use: ode}", "{use: ode, order: 2}", "{use: cps, noise: 0}", "{use: flow-sde, noise: 0}"):
        (_, line) = problems(catalog, ("{use: ddim, eta: 1.0}", sampler))
        assert "line 5: rollout.sampler: 'policy-gradient' learns from noisy steps" in line
        text = GOOD.replace("{use: ddim, eta: 1.0}", sampler).replace("policy-gradient, clip: 1e-3", "nft")
        assert assemble.check(parse(text, "r"), catalog, text).optimizer.beta == 1.0


@pytest.mark.parametrize("optimizer", ["nft", "awm"])
def test_a_denoising_loss_is_refused_on_consistency_samples(catalog, optimizer):
    lines = problems(catalog, ("{use: ddim, eta: 1.0}", "{use: consistency}"), ("policy-gradient, clip: 1e-3", optimizer))
    assert lines[1].startswith(f"  line 12: optimizer: '{optimizer}' trains a denoiser on its own samples") and "rlcm-direct" in lines[1]


@pytest.mark.parametrize("optimizer", ["direct", "rlcm-direct"])
def test_every_reward_without_gradient_is_named_where_it_is_to_be_followed(catalog, optimizer):
    extra = "    x: 1.5\n  - use: my/scaled\n    scale: 2.0\n  - use: my/flat"
    catalog.entries["rewards"]["my/flat"] = Entry("my/flat", "my_parts:scaled", "")
    lines = problems(catalog, ("    x: 1.5", extra), ("policy-gradient, clip: 1e-3", optimizer))
    assert [line for line in lines if "does not declare differentiable = True" in line] == [
        f"  line {line}: rewards.{index}: '{optimizer}' follows the reward's gradient, but '{name}' does not declare differentiable = True"
        for line, index, name in ((11, 1, "my/scaled"), (13, 2, "my/flat"))
    ]


def test_a_followed_reward_is_not_normalised(catalog):
    lines = problems(catalog, ("    x: 1.5", "    normalise: batch"), ("policy-gradient, clip: 1e-3", "direct"))
    assert "rewards.0: 'direct' follows the reward itself; write normalise: none" in lines[1]


def test_direct_cannot_reach_back_further_than_a_sample_goes(catalog):
    lines = problems(catalog, ("policy-gradient, clip: 1e-3", "direct, last: [1, 11]"))
    assert lines[1] == "  line 12: optimizer: last: [1, 11] reaches back over 11 steps, but a sample has 10"
    assert "last: 0; expected a number of steps" in problems(catalog, ("policy-gradient, clip: 1e-3", "direct, last: 0"))[1]


def test_group_normalised_rewards_need_siblings(catalog):
    lines = problems(catalog, ("    x: 1.5", "    normalise: group"))
    assert lines[1] == "  line 9: rewards.0: normalise: group compares the samples of a prompt, but rollout.group is 1"


@pytest.mark.parametrize(
    ("window", "sampler", "optimizer", "told"),
    [
        ("{size: 3, first: 8}", "ddim", "policy-gradient", "rollout.window: 3 steps from step 8 do not fit before step 10"),
        ("{size: 3}", "ddim", "nft", "rollout.window: 'nft' learns from whole samples"),
        ("{size: 3}", "ddim", "rlcm-direct", "rollout.window: 'rlcm-direct' learns from whole samples"),
        (
            "{size: 3}",
            "consistency",
            "policy-gradient",
            "rollout.window: the ODE does not go where 'consistency' goes; write elsewhere",
        ),
    ],
)
def test_a_window_that_cannot_be_is_refused(catalog, window, sampler, optimizer, told):
    lines = problems(
        catalog,
        ("  group: 1", f"  group: 1\n  window: {window}"),
        ("{use: ddim, eta: 1.0}", f"{{use: {sampler}}}"),
        ("policy-gradient, clip: 1e-3", optimizer),
    )
    assert lines[0] == "r.yaml: 1 mistake" and lines[1].startswith("  line 8: " + told)


def test_an_unknown_key_of_a_window_is_told_with_its_nearest_name(catalog):
    with pytest.raises(RecipeError, match=r"line 8: unknown key 'rollout.window.sise' \(did you mean 'size'\?\)"):
        parse(GOOD.replace("  group: 1", "  group: 1\n  window: {size: 2, sise: 3}"), "r.yaml")


@pytest.mark.parametrize(
    ("window", "evaluate", "expected"),
    [
        ("", "", DDIM(1.0)),
        ("  window: {size: 2}\n", "", Ode()),
        ("  window: {size: 2, elsewhere: noise}\n", "", DDIM(1.0)),
        ("  window: {size: 2}\n", "evaluate: {sampler: {use: ode, order: 2}}\n", Ode(2)),
    ],
)
def test_the_evaluation_samples_as_training_mostly_does_unless_told_otherwise(catalog, window, evaluate, expected):
    text = GOOD.replace("rewards:\n", f"{window}rewards:\n") + evaluate
    assert assemble.check(parse(text, "r"), catalog, text).evaluation_sampler == expected


def test_an_optimizer_that_is_none_is_refused(catalog):
    catalog.entries["optimizers"]["my/none"] = Entry("my/none", "fractions:Fraction", "")
    lines = problems(catalog, ("policy-gradient, clip: 1e-3", "my/none"))
    assert lines[1] == "  line 12: optimizer: 'my/none' is a Fraction, which is no subclass of tropism.optimizers.base.Optimizer"
