"""``tropism push``: an exported folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("push", epilog="\b\nExamples:\n  tropism push smaller me/emoji-smaller\n  tropism push smaller me/emoji-smaller --private")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.argument("repo", metavar="REPO_ID")
@click.option("--private", is_flag=True, help="Create the repository as a private one.")
def command(out: Path, repo: str, private: bool) -> None:
    """Upload an export to the Hub.

    OUT is a folder that 'tropism export' wrote. REPO_ID, owner/name, is created if need be. Weights, cards, configurations and pictures are
    uploaded; anything else in OUT stops the upload.
    """
    from tropism.exports.push import push

    names = push(out, repo, private=private)
    click.echo("\n".join([*names, f"\nhttps://huggingface.co/{repo}"]))
