"""A pipeline folder is data: none of its code runs, and loading it says nothing that nobody can act on."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from tests.conformance.families import FAMILIES
from tropism.errors import PolicyError
from tropism.policies import quiet
from tropism.policies.pipeline import from_folder

CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
class Mine(UNet2DConditionModel): ...
class MyPipeline(StableDiffusionPipeline): ...
"""


@pytest.mark.parametrize("part", ["_class_name", "unet", "text_encoder"])
def test_code_in_a_folder_is_never_run(part, tmp_path):
    FAMILIES["stable-diffusion-1.5"].build().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index[part] = ["own_code", "MyPipeline" if part == "_class_name" else "Mine"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    places = [tmp_path, *(folder for folder in tmp_path.iterdir() if folder.is_dir())]
    for place in places:
        (place / "own_code.py").write_text(CODE)
    with pytest.raises(PolicyError, match="cannot load a pipeline"):
        from_folder(str(tmp_path))
    assert not any((place / "ran").exists() for place in places)
    assert "own_code" not in sys.modules


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord("diffusers.pipelines.pipeline_utils", logging.WARNING, "file.py", 1, text, (), None)


def test_only_the_known_harmless_lines_are_left_out():
    assert not quiet.telling(line("Expected types for vae: (<class 'AutoencoderKL'>,), got <class 'AutoencoderTiny'>."))
    assert not quiet.telling(line("`CLIPImageProcessor` requires torchvision (not installed); falling back to `CLIPImageProcessorPil`"))
    assert quiet.telling(line("Expected types for vae: (<class 'AutoencoderKL'>,), got <class 'AutoencoderKLWan'>."))
    assert quiet.telling(line("Expected types for unet: (<class 'UNet2DConditionModel'>,), got <class 'AutoencoderTiny'>."))
    assert quiet.telling(line("torchvision is too old"))


def test_loggers_and_bars_are_afterwards_as_they_were():
    handlers = [handler for name in ("diffusers", "transformers") for handler in logging.getLogger(name).handlers]
    before = [list(handler.filters) for handler in handlers]
    bars = quiet.diffusers.utils.logging.is_progress_bar_enabled(), quiet.transformers.utils.logging.is_progress_bar_enabled()
    with pytest.raises(KeyError), quiet.loading():
        assert all(quiet.telling in handler.filters for handler in handlers)
        assert not quiet.transformers.utils.logging.is_progress_bar_enabled()
        raise KeyError
    assert [list(handler.filters) for handler in handlers] == before
    assert (quiet.diffusers.utils.logging.is_progress_bar_enabled(), quiet.transformers.utils.logging.is_progress_bar_enabled()) == bars
