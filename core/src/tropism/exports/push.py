"""To the Hub: an exported folder and nothing else. Every file is looked at first; what has no place there stops the whole upload."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tropism.exports import ExportError

SUFFIXES = {".safetensors", ".json", ".md", ".svg", ".png", ".yaml"}
# Parts of tokenizers that have other endings; nothing in them can run. They are taken only from a pipeline's tokenizer folders.
TOKENIZER_FILES = {"merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "chat_template.jinja"}
TOKENIZER_FOLDERS = re.compile(r"(tokenizer|processor)(_\d+)?")
CHECKPOINT_FILES = {"state.safetensors", "state.json", "optimizer.safetensors", "metrics.jsonl", "env.json", "plugins.json", "summary.json"}
SECRET_NAME = re.compile(r"(?i)(secret|credential|passw|private[-_]?key|id_(rsa|ed25519)|(^|[-_.])tokens?\.(json|yaml|md)$)")
SECRET_TEXT = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b|\bsk-[A-Za-z0-9_-]{20,}\b|\bAKIA[0-9A-Z]{16}\b|\bghp_[A-Za-z0-9]{36}\b|PRIVATE KEY-----")


class Api(Protocol):
    """The two calls of ``huggingface_hub.HfApi`` that are made."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str, allow_patterns: list[str]) -> Any: ...


def push(folder: Path, repo: str, *, private: bool = False, api: Api | None = None) -> list[str]:
    """Create ``repo`` (``owner/name``) if need be and upload ``folder``. Returns the names of the files.

    Raises ExportError for a folder that is no export, for a file that has no place on the Hub (nothing is uploaded then), for a missing
    token, and with the Hub's own reason where it refuses.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        raise ExportError(f"'{repo}' is no repository name; expected owner/name, such as me/my-adapter")
    names = files(folder)
    client = api or _signed_in()
    try:
        client.create_repo(repo, private=private, exist_ok=True)
        client.upload_folder(
            repo_id=repo, folder_path=str(folder), commit_message="Exported by tropism", allow_patterns=[_literal(name) for name in names]
        )
    except Exception as error:  # the Hub's client raises the errors of several libraries
        reason = SECRET_TEXT.sub("[hidden]", f"{type(error).__name__}: {error}".splitlines()[0])
        raise ExportError(f"{repo} was not uploaded: {reason}\n  {folder} is unchanged; try again with the same command") from error
    return names


def files(folder: Path) -> list[str]:
    """The files of an export by their names inside the folder. Raises ExportError that lists every one that may not be uploaded."""
    if not (folder / "README.md").is_file() or not any(folder.rglob("*.safetensors")):
        found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else "no such folder"
        raise ExportError(
            f"{folder} is no export\n  found: {found}; expected: README.md and .safetensors files\n"
            f"  write one with: tropism export RUN {folder}"
        )
    inside = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    if refused := [f"  {path}: {reason}" for path in inside if (reason := _refusal(folder / path, path))]:
        listed = "\n".join(refused)
        raise ExportError(f"nothing was uploaded, for {folder} holds what has no place on the Hub:\n{listed}\n  move these files away")
    return [path.as_posix() for path in inside]


def _refusal(path: Path, inside: Path) -> str:
    if path.is_symlink():
        return "a link; its target may lie anywhere"
    if any(part.startswith(".") for part in inside.parts):
        return "a hidden file"
    if SECRET_NAME.search(path.name):
        return "its name is that of a secret"
    if inside.parts[0] == "checkpoints" or path.name in CHECKPOINT_FILES or path.name.startswith("optimizer."):
        return "part of a run or of a checkpoint, not of an export"
    tokenizer = path.name in TOKENIZER_FILES and len(inside.parts) == 2 and TOKENIZER_FOLDERS.fullmatch(inside.parts[0])
    if path.suffix not in SUFFIXES and not tokenizer:
        return f"not one of {', '.join(sorted(SUFFIXES))}"
    if path.suffix not in {".safetensors", ".png"}:
        return next(_secrets(path), "")
    return ""


def _secrets(path: Path) -> Iterator[str]:
    """Where a text looks as if it held a secret; the secret itself is not told."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        if path.suffix != ".model":
            yield "not text"
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if SECRET_TEXT.search(line):
            yield f"line {number} looks like a secret"
    if path.suffix == ".json":
        try:
            json.loads(text)
        except ValueError:
            yield "not JSON"


def _literal(name: str) -> str:
    """A name as a pattern of the Hub's client that matches nothing else."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _signed_in() -> Api:
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise ExportError("no Hugging Face token on this machine; sign in with 'hf auth login', or set HF_TOKEN, then push again")
    client: Api = huggingface_hub.HfApi()
    return client
