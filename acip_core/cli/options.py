"""Arguments and options that several verbs have, and what they share at their end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import SizeError, check_ratio
from ..paths import local_path
from .drawing import say

if TYPE_CHECKING:
    from ..api import AcipModel
    from ..model.size_planner import Plan


def expanded(path: Path | None) -> Path | None:
    """A path with `~` for the home folder, which shells leave in `--out=~/x`."""
    return local_path(path) if path is not None else None


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
Size = Annotated[
    float | None,
    typer.Option(
        help="Size ratio in (0, 1]: of the bytes that the model is published in, with --spend directions of the "
        "compressed layers' parameters; 1 is the original."
    ),
]
Megabytes = Annotated[float | None, typer.Option(min=0, help="Size of the whole model as a file.")]
Worse = Annotated[
    float | None, typer.Option(min=0, help="The smallest size whose perplexity is at most so many percent worse.")
]
Spend = Annotated[
    Literal["directions", "bits", "both"] | None,
    typer.Option(help="What may be spent; both by default, or directions where a model has no operating points."),
]
Precision = Annotated[str, typer.Option(help="Of the compressed layers: full, int8, int4, nf4 or fp4.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the artifact of other weights that lies there.")]
Push = Annotated[
    str | None, typer.Option("--push-to-hub", help="Publish the result as user/repo, private unless --public.")
]
Public = Annotated[bool, typer.Option("--public", help="Let everyone see the repository, if this makes it.")]


def one_target(size: float | None, megabytes: float | None, worse: float | None) -> None:
    """Refuse several targets at once, and a ratio that no size has.

    Raises:
        SizeError: such a target.
    """
    if sum(value is not None for value in (size, megabytes, worse)) > 1:
        raise SizeError("Name one of --size, --megabytes and --worse.")
    if size is not None:
        check_ratio(size)


def set_target(
    model: AcipModel, size: float | None, megabytes: float | None, worse: float | None, spend: str | None
) -> Plan:
    """Run at the size that the options name: a ratio, megabytes or a quality.

    Raises:
        SizeError: more than one is named, or no plan has that size.
    """
    one_target(size, megabytes, worse)
    if megabytes is not None:
        plan = model.set_bytes(megabytes * 1e6, spend or "both")
        if plan.bytes < 0.98e6 * megabytes:
            say(f"{plan.bytes / 1e6:.1f} MB are enough: no plan within {megabytes:g} MB loses less.")
        return plan
    if worse is not None:
        return model.set_quality(worse / 100, spend or "both")
    plan = model.set_size(1.0 if size is None else size, spend)
    if spend is None and plan.mode != "directions":
        say_share(plan)
    return plan


def say_share(plan: Plan) -> None:
    """What --size is a share of; it was one of the layers' parameters once."""
    say(
        f"{plan.bytes / 1e6:.1f} of {plan.base_bytes / 1e6:.0f} MB: --size is a share of the published bytes, with "
        "`--spend directions` one of the layers' parameters."
    )


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
