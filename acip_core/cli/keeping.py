"""The verbs that look after an artifact, and after this machine: `report`, `examples`, `renew`, `push`, `prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .drawing import draw, say
from .options import AnyModel, Folder, NamedArtifact, Public, check_push, expanded, push


def write_report(folder: Path, path: Path) -> None:
    """Write an artifact's pictures as one page and say where it is."""
    from ..artifacts.comparison import read_comparison
    from ..artifacts.reader import read_artifact
    from ..artifacts.task_results import read_evaluation
    from ..figures.report import write_report as write

    write(read_artifact(folder), path, read_comparison(folder), read_evaluation(folder))
    say(f"The report is {path}.")


def report(
    model: AnyModel = None,
    artifact: Folder = None,
    out: Annotated[
        Path | None, typer.Option(callback=expanded, help="File to write; report.html in that folder by default.")
    ] = None,
) -> None:
    """Write an artifact's pictures and figures as one HTML page; the model is not loaded."""
    from ..artifacts.artifact import default_artifact
    from ..model.base_model import DEFAULT_MODEL
    from ..paths import exists_here, local_path
    from ..storage.hub import split_revision

    source = model or DEFAULT_MODEL
    path = local_path(source if exists_here(source) else split_revision(source)[0]).resolve()
    name = (path.stem if path.suffix.lower() == ".gguf" else path.name).lower()  # as `load_base` names it
    folder = artifact or default_artifact(name)
    write_report(folder, out or folder / "report.html")


def examples(
    model: AnyModel = None,
    artifact: Folder = None,
) -> None:
    """Continue the page's example prompts at every size and in every mode, for it to show while the slider moves."""
    from ..artifacts.completions import FILE, write_completions
    from ..artifacts.loading import install_coding, open_model
    from ..pipelines.example_completions import complete_examples
    from ..storage.atomic import check_writable

    loaded = draw(open_model(model, artifact, same_weights=True))
    check_writable(loaded.folder / FILE)
    draw(install_coding(loaded))
    write_completions(draw(complete_examples(loaded.elastic)), loaded.folder)
    say(f"The completions are in {loaded.folder / FILE}.")


def renew(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", callback=expanded, help="An artifact.")],
) -> None:
    """Write an artifact's digests anew: it is older than they are, or a file was edited on purpose."""
    from ..artifacts.renewal import renew as run

    run(folder)
    say(f"The digests in {folder} are those of its files.")


def publish(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", callback=expanded, help="An artifact, or a model that `export` wrote.")
    ],
    repo: Annotated[str, typer.Argument(metavar="USER/REPO", help="Its name on the Hub, user/repo.")],
    public: Public = False,
) -> None:
    """Publish an artifact or an exported model on the Hugging Face Hub, private unless --public."""
    push(folder, repo, public)


def prepare(
    model: AnyModel = None,
    artifact: NamedArtifact = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="Publish the codes as user/repo, for machines that would make them at every start."),
    ] = None,
    public: Public = False,
) -> None:
    """Fill this machine's cache (converted model, factors, codes), so that the page starts at once."""
    from ..artifacts.loading import install_coding, open_model
    from ..artifacts.published_codes import publish_codes

    check_push(push_to_hub)
    loaded = draw(open_model(model, artifact))
    if push_to_hub is None:
        draw(install_coding(loaded))
    else:
        say(f"Its codes are published at {draw(publish_codes(loaded, push_to_hub, not public))}.")
    say(f"{loaded.elastic.base.source} is ready.")
