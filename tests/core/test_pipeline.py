"""Any diffusers pipeline as a policy: what is learned from watching it, and when it is refused."""

from __future__ import annotations

import inspect
import shutil

import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion as stable_diffusion
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

from tests import tiny
from tests.conformance.families import FAMILIES
from tropism.diffusion.rollout import collect, replay
from tropism.diffusion.samplers import DDIM, Consistency
from tropism.errors import CaptureRefused, PolicyError
from tropism.policies.cache import Conditions
from tropism.policies.pipeline import capture, from_folder
from tropism.recipe import Part
from tropism.testing import condition
from tropism.types import Level

PROMPTS = [{"prompt": "a red apple"}, {"prompt": "a dog"}]


def generated(pipe, **call):
    return pipe(
        prompt=["a dog", "sky"], num_inference_steps=3, generator=torch.Generator().manual_seed(1), output_type="latent", **call
    ).images


@pytest.mark.parametrize("weight", [2.0, 5.0, 7.5])
def test_guidance_coefficients_are_found(weight):
    policy = capture(tiny.stable_diffusion(), guidance_scale=weight)
    assert policy.phases[0].guidance.weights.tolist() == pytest.approx([1 - weight, weight], abs=1e-4)
    assert policy.phases[0].rules[0].copies == 2
    assert policy.replay_error < 1e-5


def test_without_guidance_there_is_one_copy():
    policy = capture(tiny.stable_diffusion(), guidance_scale=1.0)
    assert policy.phases[0].guidance.weights.tolist() == pytest.approx([1.0], abs=1e-6)
    assert policy.phases[0].rules[0].copies == 1 and policy.replay_error < 1e-5


def test_a_consistency_model_has_one_copy_and_its_guidance_among_the_conditions():
    policy = capture(tiny.latent_consistency(), guidance_scale=8.0)
    assert policy.phases[0].rules[0].copies == 1 and policy.phases[0].guidance.weights.tolist() == pytest.approx([1.0], abs=1e-6)
    assert policy.replay_error < 1e-5
    assert set(policy.phases[0].rules[0].conditions) == {"encoder_hidden_states", "timestep_cond"}
    weak, strong = (capture(tiny.latent_consistency(), guidance_scale=w).encode(PROMPTS)["call0"] for w in (2.0, 8.0))
    assert torch.equal(weak["encoder_hidden_states"], strong["encoder_hidden_states"])
    assert not torch.allclose(weak["timestep_cond"], strong["timestep_cond"])


def test_predict_is_the_guided_prediction_of_the_network():
    pipe = tiny.stable_diffusion()
    policy = capture(pipe, guidance_scale=3.0)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500.0, 20.0])
    cond = policy.encode(PROMPTS)
    with torch.no_grad():
        embeds, negative = pipe.encode_prompt([item["prompt"] for item in PROMPTS], "cpu", 1, True)
        plain, told = pipe.unet(x, t, negative).sample, pipe.unet(x, t, embeds).sample
        found = policy.predict(x, Level(t, t, t), cond)
    torch.testing.assert_close(found, plain + 3.0 * (told - plain), rtol=1e-4, atol=1e-5)


def test_a_negative_prompt_is_part_of_the_condition():
    one, other = (
        capture(tiny.stable_diffusion(), guidance_scale=3.0, **call).encode(PROMPTS)["call0"]["encoder_hidden_states"]
        for call in ({}, {"negative_prompt": "bad"})
    )
    assert torch.equal(one[:, 1], other[:, 1]), "the prompts' half"
    assert not torch.allclose(one[:, 0], other[:, 0])


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.latent_consistency])
def test_the_pipeline_is_left_as_it_was_and_the_random_state_is_untouched(make):
    pipe = make()
    before, scheduler = generated(pipe), pipe.scheduler
    config, hooks = dict(pipe.scheduler.config), len(pipe.unet._forward_hooks) + len(pipe.unet._forward_pre_hooks)
    state = torch.get_rng_state()
    policy = capture(pipe, guidance_scale=4.0)
    policy.encode(PROMPTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert pipe.scheduler is scheduler and dict(pipe.scheduler.config) == config
    assert "step" not in vars(scheduler) and scheduler.num_inference_steps == 3, "the watched scheduler was a copy"
    assert len(pipe.unet._forward_hooks) + len(pipe.unet._forward_pre_hooks) == hooks and "forward" not in vars(pipe.unet)
    assert torch.equal(generated(pipe), before)


def test_the_pipeline_is_left_as_it_was_when_it_is_refused(monkeypatch):
    monkeypatch.setattr(stable_diffusion, "rescale_noise_cfg", lambda noise, text, guidance_rescale: noise.tanh())
    pipe = tiny.stable_diffusion()
    scheduler = pipe.scheduler
    with pytest.raises(CaptureRefused):
        capture(pipe, guidance_scale=4.0, guidance_rescale=0.7)
    assert pipe.scheduler is scheduler and "forward" not in vars(pipe.unet)


def test_rescaled_guidance_is_found_with_its_strength():
    policy = capture(tiny.stable_diffusion(), guidance_scale=4.0, guidance_rescale=0.7)
    found = policy.phases[0].guidance
    assert found.size == "sample" and found.like == 1 and found.strength == pytest.approx(0.7, abs=1e-3)
    assert found.weights.tolist() == pytest.approx([-3, 4], abs=1e-3)
    assert policy.replay_error < 1e-4


def test_guidance_by_an_unknown_rule_is_refused(monkeypatch):
    monkeypatch.setattr(stable_diffusion, "rescale_noise_cfg", lambda noise, text, guidance_rescale: noise.tanh())
    with pytest.raises(CaptureRefused, match="StableDiffusionPipeline: its denoiser's 2 outputs do not combine"):
        capture(tiny.stable_diffusion(), guidance_scale=4.0, guidance_rescale=0.1)


def test_a_state_that_the_scheduler_scales_is_taken_as_the_network_is_told_it():
    pipe = tiny.stable_diffusion()
    pipe.scheduler = EulerDiscreteScheduler(**tiny.BETAS)
    policy = capture(pipe, guidance_scale=4.0)
    levels = policy.schedule.levels(5)
    assert policy.study.scaled and policy.replay_error < 1e-5
    torch.testing.assert_close(levels.alpha**2 + levels.sigma**2, torch.ones(6))


def test_a_network_that_remembers_its_calls_is_refused(monkeypatch):
    pipe = tiny.stable_diffusion()
    original, calls = pipe.unet.conv_out.forward, []

    def forgetful(x):
        calls.append(1)
        return original(x) * (1 + 0.1 * len(calls))

    monkeypatch.setattr(pipe.unet.conv_out, "forward", forgetful)
    with pytest.raises(CaptureRefused, match=r"relative error|by a known rule"):
        capture(pipe, guidance_scale=4.0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("guidance_scal", r" \(did you mean 'guidance_scale'\?\)"), ("output_type", ""), ("generator", "")],
)
def test_call_arguments_that_are_unknown_or_not_free_are_refused(name, hint):
    with pytest.raises(PolicyError, match=f"StableDiffusionPipeline takes no call argument '{name}'{hint}"):
        capture(tiny.stable_diffusion(), **{name: 3})


def test_a_missing_folder_is_named_with_what_was_expected(tmp_path):
    with pytest.raises(PolicyError, match="cannot load a pipeline from folder") as told:
        from_folder(str(tmp_path / "absent"))
    assert str(tmp_path / "absent") in str(told.value) and "found there: nothing" in str(told.value)


def test_a_folder_that_is_no_pipeline_is_named_with_what_was_found(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(PolicyError, match=r"found there: \['notes.txt'\]; expected a diffusers folder with model_index.json"):
        from_folder(str(tmp_path))


def test_a_saved_pipeline_is_the_same_policy_with_frozen_weights(tmp_path):
    pipe = tiny.stable_diffusion()
    pipe.save_pretrained(tmp_path, safe_serialization=True)
    direct, loaded = capture(pipe, guidance_scale=3.0), from_folder(str(tmp_path), {"guidance_scale": 3.0})
    assert isinstance(loaded.pipe, StableDiffusionPipeline)
    assert not any(p.requires_grad for part in ("unet", "vae", "text_encoder") for p in getattr(loaded.pipe, part).parameters())
    assert not loaded.pipe.unet.training
    one, other = (collect(policy, condition(policy, PROMPTS), DDIM(1.0), 3) for policy in (direct, loaded))
    assert torch.equal(one.x0, other.x0)


def test_decode_is_that_of_the_pipeline():
    pipe = tiny.stable_diffusion()
    policy = capture(pipe, guidance_scale=3.0)
    latents = generated(pipe, guidance_scale=3.0)
    images = torch.as_tensor(
        pipe(
            prompt=["a dog", "sky"], num_inference_steps=3, generator=torch.Generator().manual_seed(1), output_type="np", guidance_scale=3.0
        ).images
    )
    found = policy.decode(latents)["image"]
    torch.testing.assert_close(found.detach(), images.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)


def test_conditions_are_cached_by_content_and_equal_to_fresh_ones():
    policy = capture(tiny.stable_diffusion(), guidance_scale=3.0)
    asked: list[int] = []
    original = policy.encode
    policy.encode = lambda items: asked.append(len(items)) or original(items)
    cache, items = Conditions(policy, batch=2), [*PROMPTS, {"prompt": "sky"}, PROMPTS[0]]
    first = cache.encode(items)["call0"]["encoder_hidden_states"]
    again = cache.encode(items[::-1])["call0"]["encoder_hidden_states"]
    assert asked == [2, 1]
    assert torch.equal(first.flip(0), again)
    torch.testing.assert_close(first, original(items)["call0"]["encoder_hidden_states"], rtol=1e-5, atol=1e-6)


def test_describe_says_what_was_learned():
    told = capture(tiny.stable_diffusion(), guidance_scale=5.0).describe()
    assert told["pipeline"] == "StableDiffusionPipeline" and told["guidance"] == "-4 out0 + 5 out1"
    assert told["sample"] == "sample [4, 8, 8], 2 copies" and told["time"] == "timestep"


@pytest.mark.parametrize(("make", "sampler"), [(tiny.stable_diffusion, DDIM(1.0)), (tiny.latent_consistency, Consistency())])
def test_in_bfloat16_the_ratio_is_exact_in_the_rollouts_batch_and_recorded_elsewhere(make, sampler, record_property):
    policy = capture(make(), guidance_scale=3.0)
    cond = condition(policy, PROMPTS * 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rollout = collect(policy, cond, sampler, 4)
        assert rollout.steps.x.dtype == rollout.steps.logp.dtype == torch.float32
        same = replay(policy, sampler, rollout, torch.arange(4), torch.zeros(4, dtype=torch.long))
        alone = torch.cat([replay(policy, sampler, rollout, torch.tensor([row]), torch.tensor([0])) for row in range(4)])
    exact = collect(policy, cond, sampler, 4)
    assert torch.equal(same, rollout.steps.logp[:, 0])
    assert not torch.equal(exact.x0, rollout.x0), "bfloat16 was meant to be on"
    error = (alone - rollout.steps.logp[:, 0]).exp().sub(1).abs().max().item()
    record_property("bf16_ratio_error_of_another_batch", error)
    print(f"bf16 ratio error in another batch shape: {error:.2g}")
    assert error < 0.05


def test_a_recipe_says_from_where_a_pipeline_comes():
    assert Part.model_validate({"use": "pipeline", "from": "folder"}).arguments == {"source": "folder"}


def test_parts_that_a_folder_was_saved_without_need_no_mention(tmp_path):
    pipe = FAMILIES["sd3"].build()
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path)
    assert from_folder(str(tmp_path), {**FAMILIES["sd3"].call, "max_sequence_length": 4}).replay_error < 1e-3


@pytest.mark.parametrize("name", ["flux", "qwen-image", "wan-2.1", "stable-diffusion-1.5"])
def test_pipelines_in_half_precision_round_the_time_as_they_do(name):
    """FLUX and Qwen-Image round the time to their type before they divide it by 1000."""
    family = FAMILIES[name]
    pipe = family.build()
    pipe.to(dtype=torch.bfloat16)
    call = {**family.call, "guidance_scale": 1.0, "true_cfg_scale": 1.0}
    policy = capture(pipe, **{key: value for key, value in call.items() if key in inspect.signature(pipe.__call__).parameters})
    assert policy.replay_error < 1e-2
    if name in ("flux", "qwen-image"):
        assert policy.replay_error == 0.0


@pytest.mark.parametrize("part", ["tokenizer", "unet", "scheduler"])
def test_a_part_that_a_folder_lacks_is_named(part, tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / part)
    with pytest.raises(PolicyError, match=rf"its model_index.json names {part}, which is not there"):
        from_folder(str(tmp_path))
