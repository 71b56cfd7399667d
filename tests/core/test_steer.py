"""``tropism steer`` and ``tropism.steer``: a recipe, a run and a plain pipeline, and what is told where they cannot be steered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import tropism
from tests import tiny
from tropism import api, plugins, report
from tropism.cli import cli
from tropism.diffusion.flow_samplers import FlowSde, Ode
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.errors import PluginError, SteeringError, TropismError
from tropism.policies.pipeline import capture
from tropism.recipe import Part
from tropism.report import told
from tropism.steering.fk import Fk
from tropism.toy import Near, ToyPolicy
from tropism.turning import baseline, particles, pipeline
from tropism.turning.particles import MOST, condition
from tropism.turning.steerable import misfits

FEW = ("device=cpu", "rollout.steps=6")


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="tropism")


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder of three methods on two prompts, and what was printed."""
    folder = tmp_path_factory.mktemp("steered") / "out"
    words = ("--prompt", "a point", "--prompt", "<script>alert(1)</script>", "--particles", "6", "--seed", "3", "--out", folder)
    compared = [word for name in ("best-of-n", "psp", "paths", "zero-order") for word in ("--compare", name)]
    return folder, run("steer", "toy/ddpo", *FEW, *words, *compared, "steering.lambda=20")


# --- the command ------------------------------------------------------------------------------------------------------------


def test_a_recipe_is_steered_beside_other_methods(steered):
    folder, result = steered
    assert result.exit_code == 0, result.output
    found = told.read(folder)
    assert [one.label for one in found.outcomes] == ["unsteered", "fk", "best-of-n", "psp", "paths", "zero-order"]
    plain, fk, best = found.outcomes[:3]
    assert (plain.forwards, fk.forwards, best.forwards) == (2 * 6, 2 * 6 * 6, 2 * 6 * 6), "best of n has as many forwards"
    assert (plain.calls, best.calls) == (2, 12) and fk.calls == 2 * 6 * 4, "three points on the way of six steps, and the end"
    assert (fk.particles, fk.method["lambda"], best.particles) == (6, 20, 6)
    for one in found.outcomes:
        assert [prompt.prompt for prompt in one.prompts] == ["a point", "<script>alert(1)</script>"]
        assert one.metrics["best reward"].mean == pytest.approx(one.metrics["toy/near"].mean, abs=1e-4), "the best is what was chosen"
        assert one.label in result.output and f"{one.forwards:,}" in result.output
    assert best.metrics["best reward"].mean >= plain.metrics["best reward"].mean, "its first sample is the unsteered one"
    assert best.metrics["distinct roots"].mean == 6 and fk.metrics["distinct roots"].mean < 6
    assert "log Z" in fk.metrics and "log Z" not in found.outcomes[3].metrics, "a search has no law, so no log Z"


def test_the_first_particle_of_every_method_is_the_unsteered_sample(steered):
    found = told.read(steered[0])
    plain, best = found.outcomes[0], found.outcomes[2]
    for one, other in zip(plain.prompts, best.prompts, strict=True):
        assert one.reward[0] == pytest.approx(other.reward[0])


def test_what_happened_at_every_point_is_kept(steered):
    folder, _ = steered
    fk = told.read(folder).outcomes[1]
    for prompt in fk.prompts:
        assert [moment.index for moment in prompt.moments] == [2, 3, 4, 6]
        assert all(1 <= moment.ess <= 6 + 1e-9 for moment in prompt.moments) and {moment.lam for moment in prompt.moments} == {20.0}
        assert sum(prompt.weight) == pytest.approx(1) and prompt.reward[prompt.chosen[0]] == max(prompt.reward)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ess = [line["value"] for line in lines if line["name"] == "fk/ess"]
    assert ess == pytest.approx([sum(prompt.moments[i].ess for prompt in fk.prompts) / 2 for i in range(4)])
    assert {path.name for path in folder.iterdir()} == {
        *("env.json", "metrics.jsonl", "report.html", "samples", "steered.yaml", "summary.json")
    }


def test_the_page_is_whole_and_offline(steered):
    folder, _ = steered
    page = (folder / "report.html").read_text()
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page and "default-src 'none'" in page
    assert page.count('<figure class="family">') == 2 * 5, "one for each method with particles and each prompt"
    for word in ("best reward", "log Z", "distinct roots", "held-out", "forwards", "reward calls", "peak memory", "lambda 20.0"):
        assert word in page or word == "held-out"
    (folder / "report.html").unlink()
    assert run("report", folder).exit_code == 0 and (folder / "report.html").read_text() == page


def test_the_folder_can_be_steered_again(steered, tmp_path):
    folder, _ = steered
    again = run("steer", folder / "steered.yaml", "--prompt", "a point", "--seed", "3", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.output
    first, second = (told.read(place).outcomes[1].prompts[0] for place in (folder, tmp_path / "again"))
    assert first == second, "a prompt's particles do not depend on the other prompts"


def test_a_finished_run_is_steered_with_its_weights(tmp_path):
    small = ("train.iterations=2", "train.lr=0.05", "rollout.samples=32", "rollout.batch=32", "evaluate.per_prompt=2", "device=cpu")
    assert run("run", "toy/ddpo", *small, "--out", tmp_path / "run").exit_code == 0
    made = {}
    for name, words in {"trained": (), "base": ("--base",)}.items():
        result = run("steer", tmp_path / "run", "--method", "svdd", *words, "--out", tmp_path / name, "rollout.steps=4")
        assert result.exit_code == 0, result.output
        made[name] = told.read(tmp_path / name).outcomes[0].prompts[0].reward[0]
    assert made["trained"] != made["base"]
    assert (tmp_path / "run" / "recipe.yaml").is_file() and not (tmp_path / "trained" / "recipe.yaml").exists(), "no run to be resumed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "fkk"), "no steering entry 'fkk' (did you mean 'fk'?)"),
        (("--compare", "svd"), "no steering entry 'svd' (did you mean 'svdd'?)"),
        (("--compare", "fk"), "'fk' is compared with itself; name each method once"),
        (("steering.particels=3",), "did you mean 'particles'"),
        (("rollout.sampler={use: ode}", "optimizer={use: nft}"), "'fk' copies particles, but 'ode'"),
        (
            ("--method", "tds", "rollout.sampler={use: glass}"),
            "'tds' follows the reward's gradient, but steps of sampler 'glass' have no density",
        ),
    ],
)
def test_what_cannot_be_steered_is_told(tmp_path, words, message):
    result = run("steer", "toy/ddpo", *FEW, *words, "--out", tmp_path / "out")
    assert result.exit_code == 1 and message in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    result = run("steer", "toy/ddpo", "--out", tmp_path)
    assert result.exit_code == 1 and "exists and is not an empty folder (it holds mine.txt)" in result.output
    assert "remove it, or name another with --out" in result.output
    with pytest.raises(TropismError, match="is no folder of steered samples"):
        report.steered(tmp_path, {})


# --- from Python ------------------------------------------------------------------------------------------------------------


def bright(image: torch.Tensor) -> torch.Tensor:
    return image.flatten(1).mean(1)


def test_three_lines_on_a_plain_pipeline():
    pipe = tiny.stable_diffusion()
    found = tropism.steer(pipe, "a red apple", bright, particles=4, steps=5, call={"guidance_scale": 2.0})
    assert found.samples.shape == (1, 3, *found.samples.shape[2:]) and found.reward.shape == (1, 4)
    assert bright(found.samples)[0].item() == pytest.approx(found.reward.max().item(), abs=1e-6)
    assert found.weights.sum().item() == pytest.approx(1) and found.log_z.isfinite().all()
    assert found.forwards == 4 * 5 and set(found.scores) == {"bright"}


def test_one_particle_is_the_policy_and_prompts_do_not_touch_each_other():
    policy, near = ToyPolicy(), Near()
    both = pipeline.steer(policy, ["a", "b"], near, 4, steps=6, batch=3)
    alone = pipeline.steer(policy, {"prompt": "a"}, near, 4, steps=6)
    torch.testing.assert_close(both.reward[0], alone.reward[0])
    plain = pipeline.steer(policy, "a", near, 4, "best-of-n", steps=6)
    one = pipeline.steer(policy, "a", "toy/near", 1, {"use": "fk", "lambda": 5.0}, steps=6)
    assert one.reward[0, 0].item() == pytest.approx(plain.reward[0, 0].item())
    given = pipeline.steer(policy, "a", near, method=Fk(particles=2), steps=6, seed=1, sampler="ddim")
    assert given.reward.shape == (1, 2) and not torch.allclose(given.reward, plain.reward[:, :2])


def test_the_sampler_fits_the_model():
    assert pipeline.fitting(ToyPolicy(), 5) == DDIM(eta=1.0)
    assert pipeline.fitting(ToyPolicy(parametrization="flow"), 5) == FlowSde()
    student = capture(tiny.latent_consistency(), guidance_scale=3.0)
    assert pipeline.fitting(student, 4) == Consistency() and pipeline._own_steps(student) == 4


def test_what_python_is_told():
    policy, near = ToyPolicy(), Near()
    for sampler in ("ode", Ode()):
        with pytest.raises(SteeringError, match=r"'Fk' copies particles, but sampler 'ode' has no noise .* or best-of-n"):
            pipeline.steer(policy, "a", near, steps=4, sampler=sampler)
    with pytest.raises(SteeringError, match="ToyPolicy does not say how many steps it takes; give steps="):
        pipeline.steer(policy, "a", near)
    with pytest.raises(PluginError, match=r"no steering entry 'fkk' \(did you mean 'fk'\?\)"):
        pipeline.steer(policy, "a", near, method="fkk", steps=4)
    with pytest.raises(PluginError, match=r"steering 'fk': lambda: -1\.0; expected 0 or more"):
        pipeline.steer(policy, "a", near, method={"use": "fk", "lambda": -1}, steps=4)
    with pytest.raises(SteeringError, match="particles: 3, but the method that was given has 2"):
        pipeline.steer(policy, "a", near, 3, Fk(particles=2), steps=4)
    with pytest.raises(SteeringError, match="there is no prompt to steer"):
        pipeline.steer(policy, [], near, steps=4)


def test_noise_belongs_to_prompt_and_particle():
    few, many = condition([{}, {}], 5, 2), condition([{}], 5, 3, first=1)
    assert few.seed[2:].tolist() == many.seed[:2].tolist() and few.group.tolist() == [0, 0, 1, 1]
    assert len(set(condition([{}] * 4, 0, 50).seed.tolist())) == 200 and MOST > 1_000_000


# --- learning from steered samples ------------------------------------------------------------------------------------------

STEERED = (
    *(
        "device=cpu",
        "rollout.steps=5",
        "rollout.group=4",
        "rollout.samples=32",
        "rollout.batch=16",
        "train.iterations=2",
        "credit={use: group}",
    ),
    *("evaluate.per_prompt=4", "optimizer={use: nft}", "rollout.steering=true"),
)


def test_a_rollout_of_steered_samples_has_higher_rewards_and_is_learned_from(tmp_path):
    rewards = {}
    for name, method in {"plain": "{use: fk, lambda: 0, select: all}", "steered": "{use: fk, lambda: 30, select: all}"}.items():
        result = run("run", "toy/ddpo", *STEERED, f"steering={method}", "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        rewards[name] = next(line["value"] for line in lines if line["name"] == "reward/toy/near")
        assert any(line["name"] == "train/grad_norm" and line["value"] > 0 for line in lines)
    unsteered = run("run", "toy/ddpo", *STEERED, "rollout.steering=false", "--out", tmp_path / "none")
    assert unsteered.exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "none" / "metrics.jsonl").read_text().splitlines()]
    assert rewards["plain"] == pytest.approx(next(line["value"] for line in lines if line["name"] == "reward/toy/near"), rel=1e-5)
    assert rewards["steered"] > rewards["plain"] + 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is no method to steer with; add a section such as steering: {use: fk, select: all}"),
        (("steering={use: fk}",), "all particles are learned from: write select: all"),
        (("steering={use: fk, select: all, particles: 8}",), "write rollout.group: 8; found 4"),
        (("steering={use: fk, select: all}", "optimizer={use: policy-gradient}"), "'policy-gradient' learns from trajectories"),
        (("steering={use: fk, select: all}", "rollout.batch=2", "rollout.group=4"), "rollout.batch 2 is not a multiple of 4"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(words, message):
    result = run("check", "toy/ddpo", *STEERED, *words)
    assert result.exit_code == 1 and message in result.output, result.output


def test_methods_are_listed_and_shown():
    listed = run("ls", "steering").output
    assert all(name in listed for name in ("fk", "psp", "svdd", "best-of-n", "gibbs"))
    shown = run("show", "fk").output
    assert "kind: steering" in shown and "= {'ess': 0.1}" in shown and "particles: int = 4" in shown


def test_the_steered_base_model_is_a_baseline_of_every_evaluation(tmp_path):
    small = ("train.iterations=2", "train.lr=0.05", "rollout.samples=32", "rollout.batch=32", "evaluate.per_prompt=2", "evaluate.every=1")
    baselines = "[{use: steered, method: {use: fk, lambda: 30}, particles: 8}, {use: steered, method: best-of-n, particles: 1}]"
    result = run("run", "toy/ddpo", *small, *FEW, f"evaluate.evaluators={baselines}", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    fk, one = ([line["value"] for line in lines if line["name"] == f"eval/{name}/toy/near"] for name in ("fk-8", "best-of-n-1"))
    assert len(fk) == len(one) == 3 and len(set(fk)) == len(set(one)) == 1, "made once, by the base model"
    assert fk[0] > one[0]
    refused = run("run", "toy/ddpo", *FEW, "evaluate.evaluators=[{use: steered, method: fkk}]", "--out", tmp_path / "no")
    assert refused.exit_code == 1 and "evaluator 'steered'" in refused.output and "did you mean 'fk'" in refused.output


def test_the_baseline_is_of_the_prompts_that_are_evaluated(tmp_path, monkeypatch):
    words = ("train.iterations=1", "rollout.samples=8", "rollout.batch=8", "evaluate.prompts=1", "evaluate.per_prompt=2", *FEW)
    data = ("data.heldout=[seen, fresh, fresher]", "evaluate.evaluators=[{use: steered, method: best-of-n, particles: 2}]")
    assert run("run", "toy/ddpo", *words, *data, "--out", tmp_path / "run").exit_code == 0
    asked = []

    def noted(job, items, *rest):
        asked.append([item["prompt"] for item in items])
        return particles.steered(job, items, *rest)

    monkeypatch.setattr(baseline, "steered", noted)
    job = api.trained(tmp_path / "run")
    for fresh in (2, 2, 0):
        before, after = api.evaluate(job, fresh)
        assert before["best-of-n-2/toy/near"] == after["best-of-n-2/toy/near"]
    assert asked == [["fresh", "fresher"], ["seen"]], "once for the same prompts"


def test_a_recipe_without_rewards_has_nothing_to_steer_toward():
    recipe = api.load_recipe("toy/dpo", plugins.manager()[1])[0].model_copy(update={"rewards": (), "steering": Part(use="fk")})
    assert list(misfits(recipe, [], DDIM(eta=1.0), 5, Fk(), None)) == [
        (("steering",), "there is no reward to steer toward; name one under rewards")
    ]


def test_the_baseline_steers_for_itself_in_a_run_that_learns_from_steered_samples(tmp_path):
    words = ["steering={use: fk, select: all}", "train.iterations=1", "evaluate.evaluators=[{use: steered, method: psp, particles: 8}]"]
    result = run("run", "toy/ddpo", *STEERED, *words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    names = {json.loads(line)["name"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()}
    assert "eval/psp-8/toy/near" in names
