"""The model card: ``README.md`` with front matter for the Hub, beside ``recipe.yaml`` and ``curves.svg``. All numbers are the run's."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from tropism.exports.compare import Difference, remark
from tropism.exports.curves import charts
from tropism.exports.learned import Learned, is_pipeline
from tropism.exports.papers import cited
from tropism.report import words
from tropism.report.read import Run, read
from tropism.report.results import evaluated, outcome, results

CHECKED = ("tropism", "torch", "diffusers", "transformers", "peft")  # versions that a reload may depend on

HERE = "this/folder"  # stands in the card for where a reader has put the export, or for its name on the Hub
AS_A_POLICY = (
    "import safetensors.torch",
    "from tropism import api, assemble",
    "",
    "catalog = api.loaded()[1]",
    f'recipe = api.load_recipe("{HERE}/recipe.yaml", catalog)[0]',
    'policy = assemble.make(catalog, "policies", recipe.policy)',
)


@dataclass(frozen=True)
class Base:
    """The base model. hub: its name on the Hub, None for one from a folder; place: what ``from_pretrained`` is given in the card."""

    label: str
    hub: str | None
    place: str


def write(
    out: Path, learned: Learned, chosen: Any, format: str, dtype: str | None, license: str, found: Difference, moved: Difference
) -> None:
    """Write the card and what it shows into ``out``."""
    run, base = read(learned.folder), base_model(learned)
    recipe = portable(run.recipe)
    drawn = charts(run)
    (out / "recipe.yaml").write_text(recipe, encoding="utf-8")
    templates = Environment(
        loader=PackageLoader("tropism", "templates"),
        autoescape=lambda name: name is not None and ".svg" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"number": words.number, "bounds": words.bounds, "duration": words.duration, "cell": _cell}
    if drawn:
        (out / "curves.svg").write_text(templates.get_template("card-curves.svg.j2").render(charts=drawn), encoding="utf-8")
    page = templates.get_template("card.md.j2").render(
        front=yaml.safe_dump(front_matter(learned, chosen, base, license), sort_keys=False, allow_unicode=True),
        learned=learned,
        run=run,
        base=base,
        rows=results(run),
        sentence=", ".join(outcome(results(run))),
        charts=drawn,
        format=format,
        dtype=dtype,
        usage=usage(learned, chosen, base, dtype),
        recipe=recipe,
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", recipe)), default=0)),
        versions={name: version for name, version in run.environment.items() if name in CHECKED},
        license=license,
        found=found,
        moved=moved,
        papers=cited(learned.recipe, learned.catalog),
        measured=_measured(run),
        remark=remark(found, moved),
    )
    (out / "README.md").write_text(page, encoding="utf-8")


def base_model(learned: Learned) -> Base:
    """Where the base model comes from: a name on the Hub, or a folder, of which only the last part of the path is told."""
    pipe, use = getattr(learned.policy, "pipe", None), learned.recipe.policy.use
    source = str(getattr(pipe, "name_or_path", None) or "")
    if not source or Path(source).exists() or Path(source).is_absolute():
        label = Path(source).name if use == "pipeline" else use
        return Base(label, None, f"folder/of/{Path(source).name or label}")
    return Base(source, source, source)


def front_matter(learned: Learned, chosen: Any, base: Base, license: str) -> dict[str, Any]:
    """The block that the Hub reads. A licence that is not given is said to be the base model's."""
    pipeline = is_pipeline(learned.policy)
    tags = ["tropism", learned.recipe.optimizer.use, *(["lora"] if chosen.relation == "adapter" else [])]
    found: dict[str, Any] = {"license": license} if license else {"license": "other", "license_name": "see-base-model"}
    if pipeline:
        found["library_name"] = "diffusers"
        tags.append(type(learned.policy.pipe).__name__)
        if task := _task(learned.policy.pipe):
            found["pipeline_tag"] = task
    if base.hub:
        found |= {"base_model": base.hub, "base_model_relation": chosen.relation}
    return {**found, "tags": tags}


def usage(learned: Learned, chosen: Any, base: Base, dtype: str | None) -> str:
    """Python that loads what was exported and samples from it with the run's own settings."""
    lines = [line.replace("FOLDER", HERE) for line in chosen.usage(learned.policy)]
    if any(line.startswith("policy.") for line in lines):
        return "\n".join([*AS_A_POLICY, *lines])
    place = base.place if lines else HERE
    half = f", dtype=torch.{dtype}" if dtype not in (None, "float32") and not lines else ""
    steps = learned.recipe.evaluate.steps or learned.recipe.rollout.steps
    fixed = learned.policy.call.fixed.items()
    asked = {"num_inference_steps": steps, **{name: value for name, value in fixed if isinstance(value, bool | int | float | str)}}
    prompt = next((item["prompt"] for item in learned.job.heldout_items if isinstance(item.get("prompt"), str)), None)
    arguments = ", ".join([*([json.dumps(prompt)] if prompt else []), *(f"{key}={value!r}" for key, value in asked.items())])
    return "\n".join(
        [
            *(["import torch"] if half else []),
            "from diffusers import DiffusionPipeline",
            "",
            f'pipe = DiffusionPipeline.from_pretrained("{place}"{half})',
            *lines,
            f"result = pipe({arguments})",
        ]
    )


def portable(recipe: str) -> str:
    """A recipe's YAML with local paths cut to their last part: the rest tells of a machine and helps nobody."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, list):
            return [cut(item) for item in value]
        return Path(value).name if isinstance(value, str) and value and Path(value).is_absolute() else value

    return yaml.safe_dump(cut(yaml.safe_load(recipe)), sort_keys=False, width=120)


def _task(pipe: Any) -> str | None:
    """The Hub's name of what the pipeline does, where diffusers lists its class under one."""
    from diffusers.pipelines import auto_pipeline

    listed = {
        "text-to-image": auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        "image-to-image": {**auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, **auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING},
    }
    return next((task for task, kinds in listed.items() if type(pipe) in kinds.values()), None)


def _measured(run: Run) -> int | None:
    """The iteration of the last evaluation."""
    return max((points[-1].step for points in evaluated(run).values()), default=None)


def _cell(text: str) -> str:
    """Text inside a markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
