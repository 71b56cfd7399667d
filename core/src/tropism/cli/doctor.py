"""``tropism doctor``: what would go wrong on this machine, one line a check."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tropism.cli.plugins import given
from tropism.cli.table import echo_table
from tropism.errors import TropismError
from tropism.plugins import Catalog, installed

Line = tuple[str, str, str]  # ok, -- (absent, and optional) or FAIL; what; in words
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "scipy", "pydantic", "rich", "jinja2")
ENOUGH_DISK = 2 * 10**9  # bytes: a checkpoint or two of a small LoRA run with its samples


@click.command("doctor", epilog="\b\nExamples:\n  tropism doctor\n  tropism doctor --pipeline models/my-pipeline")
@click.option("--pipeline", metavar="FOLDER", help="Also load this diffusers pipeline and say what was learned of it.")
def command(pipeline: str | None) -> None:
    """Check this machine: python, packages, device, plugins, disk.

    Exit status 1 where a check fails; what is optional and absent is marked with --.
    """
    catalog = installed()[1]
    lines = [*_packages(), _device(), *_plugins(catalog), *_extras(catalog), _disk()]
    if pipeline is not None:
        lines.extend(_pipeline(pipeline))
    echo_table(lines)
    failed = sum(mark == "FAIL" for mark, *_ in lines)
    click.echo(f"\n{failed} of {len(lines)} checks failed" if failed else "\nall is well")
    click.get_current_context().exit(1 if failed else 0)


def _packages() -> Iterator[Line]:
    yield "ok" if sys.version_info >= (3, 11) else "FAIL", "python", f"{platform.python_version()}, {platform.platform()}"
    for name in PACKAGES:
        version = _version(name)
        yield ("ok", name, version) if version else ("FAIL", name, f"missing; pip install {name}")


def _device() -> Line:
    try:
        import torch

        from tropism.scale.engine import default_device

        name = default_device()
        torch.ones(2, 2, device=name).sum().item()
        described = torch.cuda.get_device_name() if name == "cuda" else f"{torch.get_num_threads()} threads" if name == "cpu" else "Metal"
    except (ImportError, OSError, RuntimeError) as error:
        return "FAIL", "device", f"torch does not work: {error}".splitlines()[0]
    return "ok", "device", f"{name}, {described}"


def _plugins(catalog: Catalog) -> Iterator[Line]:
    for plugin, label in catalog.distributions.items():
        yield "ok", f"plugin {plugin}", f"{label or 'built in'}: {given(catalog, plugin)}"
    for fault in catalog.faults:
        yield "FAIL", f"plugin {fault.plugin}", fault.reason
    for kind, entries in catalog.entries.items():
        for entry in entries.values() if kind != "recipes" else ():
            try:
                entry.load()
            except Exception as error:  # third-party code at import: whatever it raises is what this command is asked to find
                yield "--" if entry.extra else "FAIL", f"{kind} {entry.name}", " ".join(f"{error}".split())


def _extras(catalog: Catalog) -> Iterator[Line]:
    for extra in sorted({entry.extra for entries in catalog.entries.values() for entry in entries.values() if entry.extra}):
        if absent := [name for name in _required(extra) if not _version(name)]:
            yield "--", extra, f"optional, not installed ({', '.join(absent)}); pip install '{extra}'"
        else:
            yield "ok", extra, "installed"


def _required(extra: str) -> list[str]:
    """The packages behind ``distribution[extra]``; where the distribution runs from its source tree, the extra's own name."""
    distribution, _, name = extra.rstrip("]").partition("[")
    try:
        wanted = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return [name or distribution]
    mark = re.compile(rf"extra\s*==\s*['\"]{re.escape(name)}['\"]")
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted if mark.search(line)]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _disk() -> Line:
    free = shutil.disk_usage(Path.cwd()).free
    return "ok" if free >= ENOUGH_DISK else "FAIL", "disk", f"{free / 1e9:.1f} GB free in {Path.cwd()}"


def _pipeline(source: str) -> Iterator[Line]:
    from tropism.policies.pipeline import from_folder

    try:
        learned = from_folder(source).describe()
    except TropismError as error:
        yield "FAIL", "pipeline", " ".join(str(error).split())
        return
    for name, text in learned.items():
        yield "ok", name, text
