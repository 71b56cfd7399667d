"""The six standard picture rewards, on tiny weights in the published formats."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, CLIPModel, CLIPTokenizer

from tests.image import reference, tiny
from tropism.errors import RewardError
from tropism_image.rewards import jpeg
from tropism_image.rewards.aesthetic import Aesthetic
from tropism_image.rewards.clip_score import ClipScore
from tropism_image.rewards.convert import convert
from tropism_image.rewards.hps import HPSv2
from tropism_image.rewards.image_reward import ImageReward
from tropism_image.rewards.jpeg import JpegSize
from tropism_image.rewards.pickscore import PickScore

PROMPTS = ["a cat", "red sky", "a house", "a cat", "a red house a red sky", "sky"]
NAMES = ["clip_score", "pickscore", "hps", "image_reward", "aesthetic", "jpeg"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights for every reward, written once."""
    root = tmp_path_factory.mktemp("weights")
    tiny.clip_model(root / "clip")
    tiny.clip_model(root / "clip768", width=768)
    tiny.save(root / "hps.safetensors", tiny.open_clip_tensors(tiny.clip_tokenizer(root / "words")))
    tiny.save(root / "image_reward.safetensors", tiny.image_reward_tensors(tiny.bert_tokenizer(root / "bert")))
    tiny.save(root / "head.safetensors", tiny.mlp_tensors())
    torch.save(tiny.mlp_tensors(), root / "sac+logos+ava1-l14-linearMSE.pth")
    return root


@pytest.fixture(scope="module")
def rewards(folder):
    return {
        "clip_score": ClipScore(str(folder / "clip")),
        "pickscore": PickScore(str(folder / "clip"), processor=str(folder / "words")),
        "hps": HPSv2(str(folder / "hps.safetensors"), tokenizer=str(folder / "words")),
        "image_reward": ImageReward(str(folder / "image_reward.safetensors"), tokenizer=str(folder / "bert")),
        "aesthetic": Aesthetic(str(folder / "head.safetensors"), clip=str(folder / "clip768")),
        "jpeg": JpegSize(),
    }


def pictures(count: int = len(PROMPTS), size: int = tiny.SIZE) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def score(reward, image: torch.Tensor, prompt: list[str]) -> torch.Tensor:
    return reward(image) if isinstance(reward, (JpegSize, Aesthetic)) else reward(image, prompt)


# What every reward keeps.


@pytest.mark.parametrize("name", NAMES)
def test_one_finite_float32_score_a_picture(rewards, name):
    scores = score(rewards[name], pictures(), PROMPTS)
    assert scores.shape == (len(PROMPTS),)
    assert scores.dtype == torch.float32
    assert scores.std() > 1e-4, "weights too bland for these tests to mean anything"
    for flat in (torch.zeros(2, 3, 50, 50), torch.ones(2, 3, 50, 50)):
        assert torch.isfinite(score(rewards[name], flat, PROMPTS[:2])).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_does_not_matter(rewards, name):
    image = pictures(size=45)
    together = score(rewards[name], image, PROMPTS)
    alone = torch.cat([score(rewards[name], image[i : i + 1], PROMPTS[i : i + 1]) for i in range(len(PROMPTS))])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4)
    order = [4, 0, 5, 2, 1, 3]
    shuffled = score(rewards[name], image[order], [PROMPTS[i] for i in order])
    assert torch.allclose(shuffled, together[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_reaches_the_picture_if_the_reward_says_so(rewards, name):
    image = pictures(size=45).requires_grad_()
    scores = score(rewards[name], image, PROMPTS)
    assert scores.requires_grad == rewards[name].differentiable
    if rewards[name].differentiable:
        scores[1].backward()
        assert image.grad is not None
        assert torch.isfinite(image.grad).all()
        assert image.grad[1].abs().max() > 0
        assert image.grad[0].abs().max() == 0, "one picture's score must not depend on another picture"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "jpeg"])
def test_the_gradient_raises_the_score(rewards, name):
    image = (pictures() * 0.5 + 0.25).requires_grad_()
    before = score(rewards[name], image, PROMPTS)
    (slope,) = torch.autograd.grad(before.sum(), image)
    step = 1e-3 * slope / slope.abs().amax()
    predicted = (slope * step).sum()
    with torch.no_grad():
        gained = (score(rewards[name], image + step, PROMPTS) - before).sum()
    assert 0.9 < gained / predicted < 1.1


@pytest.mark.parametrize("name", ["clip_score", "pickscore", "hps", "image_reward"])
def test_a_prompt_for_each_picture_is_asked_for(rewards, name):
    with pytest.raises(RewardError, match="one prompt for each of 6 pictures, got 2 prompts"):
        rewards[name](pictures(), PROMPTS[:2])
    with pytest.raises(RewardError, match="one string"):
        rewards[name](pictures(), "a cat")
    assert not torch.allclose(rewards[name](pictures(), PROMPTS), rewards[name](pictures(), PROMPTS[1:] + PROMPTS[:1]))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_reward_trains(rewards, name):
    assert rewards[name].to("cpu") is rewards[name]
    for part in vars(rewards[name]).values():
        module = getattr(part, "model", part)
        if isinstance(module, torch.nn.Module):
            assert not module.training
            assert not any(parameter.requires_grad for parameter in module.parameters())


def test_bfloat16_weights_give_float32_scores_nearby(folder, rewards):
    near = {
        "clip_score": ClipScore(str(folder / "clip"), dtype="bfloat16"),
        "hps": HPSv2(str(folder / "hps.safetensors"), tokenizer=str(folder / "words"), dtype="bfloat16"),
        "image_reward": ImageReward(str(folder / "image_reward.safetensors"), tokenizer=str(folder / "bert"), dtype="bfloat16"),
        "aesthetic": Aesthetic(str(folder / "head.safetensors"), clip=str(folder / "clip768"), dtype="bfloat16"),
    }
    for name, reward in near.items():
        scores, exact = score(reward, pictures(), PROMPTS), score(rewards[name], pictures(), PROMPTS)
        assert scores.dtype == torch.float32
        assert (scores - exact).abs().max() < 0.15 * exact.abs().max()
    with pytest.raises(RewardError, match=r"unknown dtype 'fp16'.*bfloat16"):
        ClipScore(str(folder / "clip"), dtype="fp16")


# Each against its own formula, computed apart.


@torch.no_grad()
def clip_logits(folder, image: torch.Tensor) -> torch.Tensor:
    """exp(logit_scale) * cosine by transformers' own forward, prompts unpadded and one by one."""
    model = CLIPModel.from_pretrained(folder / "clip").eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip")
    pixels = (image - reference.MEAN) / reference.STD
    rows = [
        model(input_ids=torch.tensor([tokenizer(text).input_ids]), pixel_values=pixels[i : i + 1]).logits_per_image[0, 0]
        for i, text in enumerate(PROMPTS)
    ]
    return torch.stack(rows)


def test_clip_score_is_a_hundred_cosines(folder, rewards):
    image = pictures()
    scale = CLIPModel.from_pretrained(folder / "clip").logit_scale.exp()
    assert torch.allclose(rewards["clip_score"](image, PROMPTS), 100 * clip_logits(folder, image) / scale, atol=2e-3)
    assert torch.allclose(
        ClipScore(str(folder / "clip"), scale=1.0)(image, PROMPTS) * 100, rewards["clip_score"](image, PROMPTS), atol=1e-3
    )


def test_pickscore_is_the_scaled_cosine(folder, rewards):
    image = pictures()
    assert torch.allclose(rewards["pickscore"](image, PROMPTS), clip_logits(folder, image), atol=1e-3)


def test_hps_is_the_cosine_of_the_open_clip_network(folder, rewards):
    image = pictures()
    tensors = tiny.open_clip_tensors(tiny.clip_tokenizer(folder / "words"))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words")
    expected = [reference.open_clip_cosine(tensors, image[i], tokenizer(text).input_ids) for i, text in enumerate(PROMPTS)]
    assert torch.allclose(rewards["hps"](image, PROMPTS), torch.stack(expected), atol=2e-5)


def test_hps_from_a_transformers_folder_is_the_same(folder, rewards, tmp_path):
    rewards["hps"].clip.model.save_pretrained(tmp_path / "hps")
    again = HPSv2(str(tmp_path / "hps"), tokenizer=str(folder / "words"))
    image = pictures(size=60)[..., :40]  # not square, so that a lost padding would show
    assert torch.equal(again(image, PROMPTS), rewards["hps"](image, PROMPTS))


def test_hps_pads_what_is_not_square_and_the_others_crop(rewards):
    image = pictures(size=tiny.SIZE)[..., 8:24, :]  # half as high as wide
    padded = torch.nn.functional.pad(image, (0, 0, 8, 8))
    assert torch.allclose(rewards["hps"](image, PROMPTS), rewards["hps"](padded, PROMPTS), atol=1e-5)
    wide = torch.cat([torch.zeros(6, 3, tiny.SIZE, 6), pictures(), torch.zeros(6, 3, tiny.SIZE, 6)], -1)
    for name in ("clip_score", "pickscore", "image_reward", "aesthetic"):
        assert torch.allclose(score(rewards[name], wide, PROMPTS), score(rewards[name], pictures(), PROMPTS), atol=1e-4)


def test_a_prompt_that_is_too_long_is_cut_and_keeps_its_end(folder, rewards):
    long = "red " * 40
    tokens = CLIPTokenizer.from_pretrained(folder / "words")(long, truncation=True, max_length=tiny.TEXT_LENGTH).input_ids
    assert len(tokens) == tiny.TEXT_LENGTH
    tensors = tiny.open_clip_tensors(tiny.clip_tokenizer(folder / "words"))
    image = pictures(1)
    assert torch.allclose(rewards["hps"](image, [long])[0], reference.open_clip_cosine(tensors, image[0], tokens), atol=2e-5)


def test_image_reward_is_the_original_network(folder, rewards):
    image = pictures()
    tensors = tiny.image_reward_tensors(tiny.bert_tokenizer(folder / "bert"))
    tokenizer = BertTokenizer.from_pretrained(folder / "bert")
    expected = [reference.image_reward(tensors, image[i], tokenizer(text).input_ids) for i, text in enumerate(PROMPTS)]
    assert torch.allclose(rewards["image_reward"](image, PROMPTS), torch.stack(expected), atol=2e-5)


def test_image_reward_reads_thirty_five_tokens(rewards):
    image = pictures(2)
    cut, long = "red " * 33, "red " * 50  # with begin and end: 35 and more
    assert torch.equal(rewards["image_reward"](image, [cut, cut]), rewards["image_reward"](image, [long, long]))


def test_aesthetic_is_the_head_on_unit_embeddings(folder, rewards):
    image = pictures()
    model = CLIPModel.from_pretrained(folder / "clip768").eval()
    with torch.no_grad():
        features = model.get_image_features(pixel_values=(image - reference.MEAN) / reference.STD).pooler_output
    expected = reference.mlp(tiny.mlp_tensors(), features / features.norm(dim=-1, keepdim=True))
    assert torch.allclose(rewards["aesthetic"](image), expected, atol=1e-5)


def test_the_published_aesthetic_head_is_found_by_its_short_name(folder, rewards, monkeypatch):
    monkeypatch.setenv("TROPISM_WEIGHTS", str(folder))
    assert torch.equal(Aesthetic("v2", clip=str(folder / "clip768"))(pictures()), rewards["aesthetic"](pictures()))


def test_the_linear_aesthetic_head(folder, tmp_path):
    weight, bias = torch.randn(1, 768, generator=torch.Generator().manual_seed(1)), torch.tensor([5.0])
    torch.save({"weight": weight, "bias": bias}, tmp_path / "linear.pth")
    reward = Aesthetic(str(tmp_path / "linear.pth"), clip=str(folder / "clip768"))
    assert torch.allclose(reward(pictures()), reward.clip.pictures(pictures()) @ weight[0] + bias, atol=1e-5)


def jpeg_kilobytes(picture: torch.Tensor, quality: int) -> float:
    buffer = io.BytesIO()
    Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).save(buffer, "JPEG", quality=quality)
    return len(buffer.getvalue()) / 1000


@pytest.mark.parametrize("quality", [95, 50])
def test_jpeg_size_is_pillows(quality):
    image = pictures(9, 40)
    expected = torch.tensor([jpeg_kilobytes(picture, quality) for picture in image])
    assert torch.equal(JpegSize(quality)(image), expected)


def test_jpeg_size_does_not_depend_on_threads(monkeypatch):
    image, reward = pictures(9, 40), JpegSize()
    many = reward(image)
    monkeypatch.setattr(jpeg, "FEW", 100)
    assert torch.equal(reward(image), many)


def test_noise_is_larger_than_a_flat_picture():
    flat, noisy = JpegSize()(torch.stack([torch.full((3, 64, 64), 0.5), torch.rand(3, 64, 64)]))
    assert noisy > 3 * flat


def test_jpeg_refuses_what_it_would_hide():
    with pytest.raises(RewardError, match="nan"):
        JpegSize()(torch.full((1, 3, 16, 16), float("nan")))
    with pytest.raises(RewardError, match="quality 100"):
        JpegSize(100)


# Weights that are not there, or not what they should be.


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda path: ClipScore(str(path / "nothing")), "no CLIP model"),
        (lambda path: PickScore(str(path / "nothing")), "no CLIP model"),
        (lambda path: HPSv2(str(path / "nothing.safetensors")), "xswu/HPSv2"),
        (lambda path: ImageReward(str(path / "nothing.safetensors")), "THUDM/ImageReward"),
        (lambda path: Aesthetic(str(path / "nothing.pth")), "the path of a head"),
    ],
)
def test_missing_weights_are_named(tmp_path, build, said):
    with pytest.raises(RewardError) as caught:
        build(tmp_path)
    assert str(tmp_path / "nothing") in str(caught.value)
    assert said in str(caught.value)


def test_missing_published_head_says_both_places(tmp_path, monkeypatch):
    monkeypatch.setenv("TROPISM_WEIGHTS", str(tmp_path / "shelf"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RewardError) as caught:
        Aesthetic("v2")
    message = str(caught.value)
    assert str(tmp_path / "sac+logos") in message
    assert str(tmp_path / "shelf" / "sac+logos") in message
    assert "christophschuhmann/improved-aesthetic-predictor" in message


def test_missing_tokenizers_are_named(folder, tmp_path):
    with pytest.raises(RewardError, match="no CLIP tokenizer"):
        HPSv2(str(folder / "hps.safetensors"), tokenizer=str(tmp_path / "none"))
    with pytest.raises(RewardError, match="no BERT tokenizer"):
        ImageReward(str(folder / "image_reward.safetensors"), tokenizer=str(tmp_path / "none"))


def test_holes_are_never_filled_with_noise(folder, tmp_path):
    tensors = tiny.open_clip_tensors(tiny.clip_tokenizer(folder / "words"))
    del tensors["visual.transformer.resblocks.1.mlp.c_fc.bias"]
    with pytest.raises(RewardError, match=r"does not fill a CLIPModel.*fc1.bias"):
        HPSv2(str(tiny.save(tmp_path / "hole.safetensors", tensors)), tokenizer=str(folder / "words"))
    blip = tiny.image_reward_tensors(tiny.bert_tokenizer(folder / "bert"))
    del blip["blip.text_encoder.encoder.layer.0.output.dense.bias"]
    with pytest.raises(RewardError, match=r"does not fill a BlipTextModel.*output.dense.bias"):
        ImageReward(str(tiny.save(tmp_path / "blip.safetensors", blip)), tokenizer=str(folder / "bert"))
    for wrong, build in ((HPSv2, "words"), (ImageReward, "bert")):
        with pytest.raises(RewardError, match=r"holds no|no weight"):
            wrong(str(folder / "head.safetensors"), tokenizer=str(folder / build))
    partial = tiny.clip_model(tmp_path / "partial")
    weights = dict(CLIPModel.from_pretrained(partial).state_dict())
    del weights["visual_projection.weight"]
    tiny.save(partial / "model.safetensors", weights)
    with pytest.raises(RewardError, match=r"does not fill a CLIPModel.*visual_projection"):
        ClipScore(str(partial))


def test_a_clip_folder_with_more_than_needed_is_taken(folder, tmp_path, rewards):
    more = tiny.clip_model(tmp_path / "more")
    weights = dict(CLIPModel.from_pretrained(more).state_dict())
    tiny.save(more / "model.safetensors", weights | {"rank_head.weight": torch.zeros(1, 24)})
    assert torch.equal(ClipScore(str(more))(pictures(), PROMPTS), rewards["clip_score"](pictures(), PROMPTS))


def test_heads_that_do_not_fit_are_refused(folder, tmp_path):
    with pytest.raises(RewardError, match=r"embeddings of 768 numbers.*gives 24"):
        Aesthetic(str(folder / "head.safetensors"), clip=str(folder / "clip"))
    tiny.save(tmp_path / "odd.safetensors", {"classifier.weight": torch.zeros(1, 768)})
    with pytest.raises(RewardError, match="no score head"):
        Aesthetic(str(tmp_path / "odd.safetensors"), clip=str(folder / "clip768"))


def test_a_pickled_checkpoint_is_converted_once(folder, tmp_path, monkeypatch, rewards):
    monkeypatch.chdir(tmp_path)
    published = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 3, "state_dict": tiny.open_clip_tensors(tiny.clip_tokenizer(folder / "words"))}, published)
    with pytest.raises(RewardError, match=r"convert HPS_v2.1_compressed.pt HPS_v2.1_compressed.safetensors"):
        HPSv2(str(published), tokenizer=str(folder / "words"))
    assert convert(published, tmp_path / "HPS_v2.1.safetensors") > 30
    assert torch.equal(HPSv2(tokenizer=str(folder / "words"))(pictures(), PROMPTS), rewards["hps"](pictures(), PROMPTS))
    with pytest.raises(RewardError, match="exists already"):
        convert(published, tmp_path / "HPS_v2.1.safetensors")


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("this must not be printed",))

    torch.save({"layers.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(RewardError, match="tensors alone"):
        Aesthetic(str(tmp_path / "trap.pth"))
