"""What the engine keeps, whatever it is run on: products of potentials, streams of noise, prompts, chunks, histories."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.steering.problems import ALWAYS, HALF, LINEAR, how, kept_gain, mixture, text
from tropism.diffusion.flow_samplers import FlowSde, Ode
from tropism.diffusion.noise import Draw
from tropism.diffusion.rollout import collect
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.errors import SteeringError
from tropism.rewards.combine import Combined, Part
from tropism.steering import smc
from tropism.steering.base import steer
from tropism.steering.best_of_n import BestOfN
from tropism.steering.denoising import Denoising
from tropism.steering.fk import Fk, FkPaper
from tropism.steering.intermediate import Learned, LookAhead, Several
from tropism.steering.potentials import POTENTIALS
from tropism.steering.resampling import RESAMPLERS
from tropism.steering.schedule import Schedule
from tropism.steering.scorer import Plain
from tropism.steering.steered import SELECTORS
from tropism.steering.strength import Strength, by_effective_size
from tropism.steering.task import Task
from tropism.steering.twisted import Das, Twisted
from tropism.testing import condition
from tropism.toy import Near, ToyPolicy
from tropism.toy_chains import task
from tropism.types import Condition

NEAR = Combined([Part("near", Near(), 2.0)])


@pytest.fixture(scope="module")
def policy() -> ToyPolicy:
    made = ToyPolicy(modes=5, width=0.4)
    made.trainable().requires_grad_(False)
    return made


def conditions(policy: ToyPolicy, prompts: int, particles: int, first: int = 0) -> Condition:
    cond = condition(policy, [{"prompt": f"p{number // particles}"} for number in range(prompts * particles)], group=particles)
    return replace(cond, seed=cond.seed + first)


ANY = [
    {"potential": POTENTIALS[potential], "schedule": schedule, "strength": strength}
    for potential in sorted(POTENTIALS)
    for schedule in (HALF, ALWAYS, Schedule())
    for strength in (Strength(number=1.5), Strength(number=1.5, rising=0.1), Strength(ess=0.3))
]


@pytest.mark.parametrize("settings", ANY)
def test_potentials_along_a_lineage_make_lambda_times_the_final_reward(settings):
    found = smc.run(task(mixture(15), LINEAR, 5, 16, seed=1), how(**settings))
    torch.testing.assert_close(kept_gain(found), found.lam[:, None] * found.reward, rtol=0, atol=1e-9)
    assert any(point.resampled.any() for point in found.points)
    torch.testing.assert_close(found.reward, LINEAR(found.x0).reshape(5, 16))


@pytest.mark.parametrize("settings", ANY[:6])
def test_log_z_is_that_of_the_gains_and_ancestors(settings):
    """Recomputed from the record alone: the product over stretches between resamplings of the mean weights."""
    found = smc.run(task(mixture(15), LINEAR, 5, 16, seed=1), how(**settings))
    weight, log_z = torch.ones_like(found.logw), torch.zeros(5, dtype=torch.float64)
    for point in found.points:
        weight = weight * point.gain.exp()
        size = weight.sum(1) ** 2 / weight.square().sum(1)
        torch.testing.assert_close(size, point.ess)
        log_z += torch.where(point.resampled, weight.mean(1).log(), 0.0)
        weight = torch.where(point.resampled[:, None], 1.0, weight)
        assert (point.ancestors[~point.resampled] == torch.arange(16)).all()
    torch.testing.assert_close(log_z + weight.mean(1).log(), found.log_z)
    root = torch.arange(16).expand(5, 16)
    for point in found.points:
        root = root.gather(1, point.ancestors)
    assert torch.equal(root, found.root) and found.roots.tolist() == [len(set(row)) for row in root.tolist()]


@pytest.mark.parametrize("sampler", [DDIM(1.0), Consistency()], ids=["ddim", "consistency"])
@pytest.mark.parametrize(
    "method",
    [
        Fk(4, lam=0.0),
        FkPaper(4, lam=0.0),
        Fk(4, lam=0.0, intermediate={"samples": 2}),
        Fk(4, lam=0.0, intermediate={"lookahead": 2}),
        Twisted(4, lam=0.0),
        BestOfN(4),
        BestOfN(4, lam=3.0),
    ],
    ids=["fk", "fk-paper", "several", "ahead", "twisted", "best-of-n", "weighted"],
)
def test_lambda_zero_is_the_base_law_bit_for_bit(policy, sampler, method):
    cond = conditions(policy, 3, 4)
    found = steer(policy, cond, sampler, 10, NEAR, method)
    assert torch.equal(found.x0, collect(policy, cond, sampler, 10).x0)
    if method.how.strength.number == 0:
        assert (found.logw == 0).all() and (found.log_z == 0).all() and (found.roots == 4).all()


def test_lambda_zero_is_the_base_law_of_a_flow():
    policy = ToyPolicy(parametrization="flow")
    cond = conditions(policy, 2, 3)
    assert torch.equal(steer(policy, cond, FlowSde(), 8, NEAR, Fk(3, lam=0.0)).x0, collect(policy, cond, FlowSde(), 8).x0)


def test_one_particle_is_the_base_law(policy):
    cond = conditions(policy, 4, 1)
    found = steer(policy, cond, DDIM(1.0), 10, NEAR, Fk(1))
    assert torch.equal(found.x0, collect(policy, cond, DDIM(1.0), 10).x0) and (found.chosen == 0).all()
    steer(policy, cond, Ode(), 10, NEAR, Fk(1))  # nothing is copied, so nothing is refused


@pytest.mark.parametrize("settings", [{"potential": POTENTIALS[name]} for name in sorted(POTENTIALS)] + [{"schedule": None}])
def test_a_shift_of_the_reward_changes_no_ancestor(settings):
    """What a floor under the reward would break; log Z moves by lambda times the shift."""
    lam, shift = 0.8, -7.5
    one = smc.run(task(mixture(15), LINEAR, 20, 16, seed=2), how(lam, **settings))
    other = smc.run(task(mixture(15), lambda x: LINEAR(x) + shift, 20, 16, seed=2), how(lam, **settings))
    assert torch.equal(one.x0, other.x0) and torch.equal(one.root, other.root)
    torch.testing.assert_close(other.log_z, one.log_z + lam * shift, rtol=0, atol=1e-9)


def test_a_scale_of_the_reward_changes_nothing_where_lambda_goes_by_effective_size():
    settings = {"strength": Strength(ess=0.3), "schedule": Schedule()}
    one = smc.run(task(mixture(15), LINEAR, 20, 16, seed=2), how(**settings))
    other = smc.run(task(mixture(15), lambda x: 1000 * LINEAR(x), 20, 16, seed=2), how(**settings))
    assert torch.equal(one.root, other.root)
    torch.testing.assert_close(other.lam * 1000, one.lam)


def test_lambda_by_effective_size_is_where_the_size_is_what_was_asked():
    rewards = torch.randn(50, 8, dtype=torch.float64) * torch.logspace(-4, 4, 50, dtype=torch.float64)[:, None]
    rewards[7, 3], rewards[8, :] = torch.nan, torch.nan
    rewards[8, 2:4] = torch.tensor([1.0, 2.0], dtype=torch.float64)
    lam = by_effective_size(rewards, 0.25)
    alive = torch.where(rewards.isnan(), -torch.inf, lam[:, None] * rewards)
    weights = torch.softmax(alive, 1)
    count = (~rewards.isnan()).sum(1)
    torch.testing.assert_close(1 / weights.square().sum(1), 1 + 0.25 * (count.double() - 1), rtol=1e-6, atol=0)
    alike = torch.ones(3, 8, dtype=torch.float64)
    alike[1, 5] = 0.0  # seven of eight share the top: their size cannot fall to 2.75
    alike[2] = torch.nan
    assert by_effective_size(alike, 0.25).tolist() == [torch.inf] * 3


def test_constant_rewards_are_never_resampled():
    for name in RESAMPLERS:
        for strength in (Strength(number=5.0), Strength(ess=0.2)):
            settings = {"resampler": RESAMPLERS[name], "schedule": ALWAYS, "strength": strength}
            found = smc.run(task(mixture(10), lambda x: torch.full((len(x),), 0.1), 6, 7), how(**settings))
            assert (found.roots == 7).all() and not any(point.resampled.any() for point in found.points)
            assert found.log_z[0] == pytest.approx(0.5 if strength.number else 0.0)


def odd_reward(x: torch.Tensor) -> torch.Tensor:
    """Extremes, minus infinity and no number, by the side of the plane."""
    value = 1e4 * x[:, 0]
    value = torch.where(x[:, 1] > 1.5, torch.nan, value)
    return torch.where(x[:, 1] < -2.2, -torch.inf, value).half().float()


@pytest.mark.parametrize("potential", sorted(POTENTIALS))
@pytest.mark.parametrize("schedule", [HALF, ALWAYS, Schedule()], ids=["half", "always", "paper"])
def test_extreme_rewards_overflow_nothing_and_what_is_no_number_has_no_weight(potential, schedule):
    found = smc.run(task(mixture(15), odd_reward, 10, 64, seed=3), how(1.0, potential=POTENTIALS[potential], schedule=schedule))
    assert found.log_z.isfinite().all() and not found.logw.isnan().any() and found.x0.isfinite().all()
    lost = found.reward.isnan() | (found.reward == -torch.inf)
    assert (found.logw[lost] == -torch.inf).all() and found.weights.sum(1).allclose(torch.ones(10, dtype=torch.float64))
    assert found.unscored == sum(int(point.reward.isnan().sum()) for point in found.points) > 0
    assert found.reward.gather(1, SELECTORS["best"](found, None)).isfinite().all()


def test_one_particle_with_weight_carries_on_alone():
    """All others of the first point have no number: at the end everyone stems from the one that had."""

    def only_the_sixth(state, index):
        return torch.where(torch.arange(24) % 8 == 5, 0.0, torch.nan) if index == 0 else LINEAR(state["x0"])

    found = smc.run(task(mixture(10), LINEAR, 3, 8, seed=4), how(1.0, intermediate=Learned(only_the_sixth)))
    assert (found.root == 5).all() and found.unscored == 21
    assert (found.points[0].ess == 1).all()


@pytest.mark.parametrize("worth", [torch.nan, torch.inf, -torch.inf])
def test_when_no_particle_has_weight_the_prompt_and_the_step_are_named(policy, worth):
    cond = conditions(policy, 3, 4)
    bad = Combined([Part("bad", lambda points, prompt: [worth if name == "p1" else 0.0 for name in prompt])])
    with pytest.raises(SteeringError, match=r"prompt 1 \('p1'\): none of its 4 particles has any weight before step 2"):
        steer(policy, cond, DDIM(1.0), 10, bad, Fk(4, lam=1.0))
    with pytest.raises(SteeringError, match=r"prompt 1 \('p1'\): .* of the finished samples"):
        steer(policy, cond, DDIM(1.0), 10, bad, BestOfN(4, lam=1.0))


def test_best_is_of_the_decoded_samples_and_one_is_drawn_by_weight(policy):
    cond = conditions(policy, 30, 4)
    found = steer(policy, cond, DDIM(1.0), 10, NEAR, Fk(4))
    own = 2 * Near()(policy.decode(found.x0)["points"]).reshape(30, 4)
    assert torch.equal(found.chosen[:, 0], own.argmax(1))
    made = found.rollout(cond)
    torch.testing.assert_close(made.reward, own.max(1).values)
    torch.testing.assert_close(made.scores["near"] * 2, made.reward)
    assert [item["prompt"] for item in made.cond.items] == [f"p{number}" for number in range(30)]
    assert torch.equal(made.media["points"], made.x0)
    assert torch.equal(made.x0[:, None], found.x0.reshape(30, 4, 2)[torch.arange(30)[:, None], found.chosen])
    everyone = steer(policy, cond, DDIM(1.0), 10, NEAR, Fk(4, select="all"))
    assert len(everyone.rollout(cond)) == 120


def test_a_choice_by_weight_has_the_weights_as_its_chances():
    runs = 20_000
    logw = torch.tensor([0.1, 0.2, 0.0, 0.7], dtype=torch.float64).log()
    found = smc.run(task(mixture(2), LINEAR, 1, 4), how(0.0))
    many = replace(found, logw=logw.expand(runs, 4))
    chosen = SELECTORS["one"](many, task(mixture(2), LINEAR, runs, 4, seed=6).chance)
    share = torch.bincount(chosen.flatten(), minlength=4) / runs
    assert (share - logw.exp()).abs().max() < 4 * 0.5 / runs**0.5 and share[2] == 0
    turned = replace(many, logw=many.logw.flip(1))
    again = SELECTORS["one"](turned, task(mixture(2), LINEAR, runs, 4, seed=6).chance)
    assert (torch.bincount(again.flatten(), minlength=4) / runs - share.flip(0)).abs().max() < 4 * 0.5 / runs**0.5


METHODS = {
    "fk": Fk(4),
    "several": Fk(4, lam=1.0, intermediate={"samples": 3}),
    "das": Das(4, rising=0.1),
    "ahead": Fk(4, intermediate={"lookahead": 3}),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_prompt_is_steered_as_if_it_were_alone(policy, name):
    method = replace(METHODS[name], select="one")
    cond = conditions(policy, 5, 4)
    together = steer(policy, cond, DDIM(1.0), 12, NEAR, method)
    assert any(point.resampled.any() and not point.resampled.all() for point in together.points), "prompts should differ in this test"
    for prompt in (0, 3):
        alone = steer(policy, cond.slice(4 * prompt, 4 * prompt + 4), DDIM(1.0), 12, NEAR, method)
        assert torch.equal(alone.root[0], together.root[prompt]) and torch.equal(alone.chosen[0], together.chosen[prompt])
        torch.testing.assert_close(alone.x0, together.x0[4 * prompt : 4 * prompt + 4], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.log_z[0], together.log_z[prompt], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_the_size_of_chunks_changes_nothing(policy, name, chunk):
    cond = conditions(policy, 3, 4)
    whole = steer(policy, cond, DDIM(1.0), 12, NEAR, METHODS[name])
    cut = steer(policy, cond, DDIM(1.0), 12, NEAR, METHODS[name], chunk=chunk)
    assert torch.equal(cut.root, whole.root) and (cut.forwards, cut.calls) == (whole.forwards, whole.calls)
    torch.testing.assert_close(cut.x0, whole.x0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cut.log_z, whole.log_z, rtol=1e-4, atol=1e-4)


def test_forwards_and_rewards_are_counted(policy):
    cond = conditions(policy, 2, 4)
    asked: list[int] = []
    plain = policy.predict

    class Counting(ToyPolicy):
        def predict(self, x, level, cond):
            asked.append(len(x))
            return plain(x, level, cond)

    for method, calls in [(BestOfN(4), 8), (Fk(4), 8 * 4), (Fk(4, intermediate={"samples": 3}), 8 * 10), (Twisted(4), 8 * 10)]:
        asked.clear()
        found = steer(Counting(modes=5, width=0.4), cond, DDIM(1.0), 10, NEAR, method)
        # The last of ten DDIM steps has no noise: to resample before it would only make copies, so it is not looked at.
        assert (found.forwards, found.calls) == (sum(asked), calls) and found.forwards == 80
    asked.clear()
    found = steer(Counting(modes=5, width=0.4), cond, DDIM(1.0), 10, NEAR, Fk(4, intermediate={"lookahead": 3}))
    assert found.forwards == sum(asked) == 80 + 8 * (2 + 2 + 1)  # at the last point only two steps are left
    heun = steer(Counting(modes=5, width=0.4), cond, Ode(2), 10, NEAR, BestOfN(4))
    assert heun.forwards == 8 * 19


class TwoStep(Denoising):
    """A second-order multistep solver: the step goes by 1.5 times the prediction now less 0.5 times the one before."""

    def start(self, draw):
        state = super().start(draw)
        return {**state, "history": {"x0": torch.zeros_like(state["x"]), "known": torch.zeros(len(state["x"]))}}

    def move(self, state, index, noise, pull=None):
        history, level = state["history"], self.levels[index]
        ahead = torch.where(history["known"][:, None] > 0, 1.5 * state["x0"] - 0.5 * history["x0"], state["x0"])
        said = (state["x"] - level.alpha * ahead) / level.sigma
        moved, ratio = super().move({**state, "said": said}, index, noise, pull)
        return {**moved, "history": {"x0": state["x0"], "known": torch.ones_like(history["known"])}}, ratio


def test_the_history_of_a_sampler_goes_with_its_particle(policy):
    """One run against each lineage taken anew, alone, by the noises of the places that it went through."""
    cond, steps = conditions(policy, 2, 6), 9
    process = TwoStep(policy, DDIM(1.0), steps, cond)
    streams = [Draw(cond.seed.tolist(), process.device) for _ in range(2)]
    chance = Draw([1, 2], process.device)
    scorer = Plain(Near())
    found = smc.run(Task(process, scorer, streams[0], streams[0], chance, 2, 6), how(3.0, schedule=ALWAYS))
    assert max(found.roots) < 6, "nothing was lost, so nothing was tested"
    first = process.start(streams[1])
    noises = [process.noise(streams[1], first, index)["normal"] for index in range(steps)]
    place = torch.arange(12)  # where each finished particle was, going back
    places = [place]
    for point in reversed(found.points[:-1]):
        place = (point.ancestors + torch.arange(2)[:, None] * 6).flatten()[place]
        places.insert(0, place)
    # Points 0 .. 7 each move particles before their step; step 8 has no point, as nothing has noise after it.
    state = {key: ({k: v[place] for k, v in value.items()} if isinstance(value, dict) else value[place]) for key, value in first.items()}
    for index in range(steps):
        at = places[min(index + 1, len(places) - 1)]
        state, _ = process.move(process.look(state, index), index, {"normal": noises[index][at]})
    torch.testing.assert_close(state["x"], found.x0, rtol=1e-4, atol=1e-5)


def test_intermediate_rewards_are_what_they_say(policy):
    """Several plausible x0 make log-mean-exp; a look-ahead to the end of an ODE is that ODE's sample."""
    chain = text()
    lam = torch.full((600,), 3.0, dtype=torch.float64)
    given = task(chain, chain.reward, 100, 6)
    state = given.look(given.start(), 0)
    exact = chain.twists(3.0)[0][-1].log() / 3
    assert (Several(400)(given, state, 0, lam).mean() - exact).abs() < 0.05  # factorised fills are nearly, not quite, the law
    flat = Several(200)(given, state, 0, torch.zeros(600, dtype=torch.float64))
    assert (flat.mean() - (chain.base() * chain.reward(chain.states)).sum()).abs() < 0.02
    cond = conditions(policy, 2, 3)
    process = Denoising(policy, DDIM(0.0), 10, cond)
    streams = [Draw(seeds, process.device) for seeds in (cond.seed.tolist(), range(6), range(2))]
    job = Task(process, Plain(Near()), *streams, prompts=2, particles=3)
    seen = job.look(job.start(), 0)
    ahead = LookAhead(10)(job, seen, 0, lam[:6])
    torch.testing.assert_close(ahead.float(), Near()(collect(policy, cond, DDIM(0.0), 10).x0), rtol=1e-4, atol=1e-4)
    one = LookAhead(1)(job, seen, 0, lam[:6])
    torch.testing.assert_close(one.float(), Near()(seen["x0"]), rtol=1e-4, atol=1e-4)


def test_conditions_that_are_no_particles_of_prompts_are_refused(policy):
    with pytest.raises(SteeringError, match="10 conditions are no whole number of prompts of 4"):
        steer(policy, conditions(policy, 5, 2), DDIM(1.0), 5, NEAR, Fk(4))
    with pytest.raises(SteeringError, match="prompt by prompt, 4 particles each"):
        steer(policy, conditions(policy, 4, 2), DDIM(1.0), 5, NEAR, Fk(4))
    with pytest.raises(SteeringError, match="'Fk' copies particles, but sampler 'ode' has no noise in its 5 steps"):
        steer(policy, conditions(policy, 2, 4), Ode(), 5, NEAR, Fk(4))
    flat = Combined([Part("flat", lambda points: points[:, 0])])
    with pytest.raises(SteeringError, match="'Twisted' follows the reward's gradient, but 'flat' does not declare"):
        steer(policy, conditions(policy, 2, 4), DDIM(1.0), 5, flat, Twisted(4))
