"""Arguments and options that several verbs have, and what they share at their end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .drawing import say


def expanded(path: Path | None) -> Path | None:
    """A path with `~` for the home folder, which shells leave in `--out=~/x`."""
    return Path(os.path.expanduser(path)) if path is not None else None


_SOURCE = "Hub id (org/model, org/model@revision), local folder or GGUF file"
_OF_ARTIFACT = "Folder of the artifact; the one that `precompute` wrote for the model by default."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=f"{_SOURCE}, or smollm2-135m-instruct.")]
AnyModel = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help=f"{_SOURCE}; the embedded default when left out.", show_default=False),
]
Folder = Annotated[Path | None, typer.Option("--artifact", callback=expanded, help=_OF_ARTIFACT)]
NamedArtifact = Annotated[
    str | None,
    typer.Option("--artifact", help="Folder of the artifact, or user/repo; precomputed/<model> by default."),
]
Precision = Annotated[str, typer.Option(help="Of the compressed layers: full, int8, int4, nf4 or fp4.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the artifact of other weights that lies there.")]
Push = Annotated[
    str | None, typer.Option("--push-to-hub", help="Publish the result as user/repo, private unless --public.")
]
Public = Annotated[bool, typer.Option("--public", help="Let everyone see a repository that --push-to-hub makes.")]


def check_push(repo: str | None) -> None:
    """Say what would keep a result from being published before the work begins."""
    if repo is not None:
        from ..storage.hub import check_publishable

        check_publishable(repo)


def push(folder: Path, repo: str | None, public: bool) -> None:
    """Publish a folder, if a name was given."""
    if repo is not None:
        from ..storage.hub import publish

        say(f"It is published at {publish(folder, repo, not public)}.")
