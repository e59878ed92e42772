"""The verb that serves the page: `acip app`, or `python app.py` in a checkout."""

from __future__ import annotations

import gc
import os
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import AcipError
from .drawing import draw, say

if TYPE_CHECKING:
    from rich.console import Console

    from ..artifacts.loading import Loaded
    from ..ui.model_choices import ModelChoice
    from ..ui.waiting import WaitingPage


def default_host() -> str:
    """Only this machine, unless the environment says otherwise or a Hugging Face Space runs the page."""
    return os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1")


def main(
    model: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Hub id, folder or GGUF file, the embedded default otherwise; several to switch between.",
            show_default=False,
        ),
    ] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option(help="Folder of its artifact, or user/repo, precomputed/<model> otherwise; one for each model."),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of the compressed layers: full, int8, int4, nf4 or fp4; the page can change it.")
    ] = "full",
    dtype: Annotated[
        str, typer.Option(help="To compute in: float32, bfloat16 or float16; auto is float32 on a CPU, else bfloat16.")
    ] = "auto",
    port: Annotated[int, typer.Option(envvar="GRADIO_SERVER_PORT", min=1, max=65535, help="Port of the page.")] = 7860,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 for the whole network.")] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="ACIP_ALLOWED_HOSTS",
            help="Further name that browsers may call the page by, several to allow several; * for any.",
        ),
    ] = None,
    visitors_may_switch: Annotated[
        bool | None,
        typer.Option(
            "--visitors-may-switch/--no-visitors-may-switch",
            help="Let any visitor switch the model for everybody; on where only this machine can visit.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Open a language model in the browser, at any size down to 15 % of its bytes."""
    from ..ui.hosts import is_loopback

    try:
        host = host or default_host()
        if visitors_may_switch is None:
            visitors_may_switch = is_loopback(host) and not os.environ.get("SPACE_ID")
        serve(model or [], artifact or [], precision, dtype, host, port, allowed_host or [], visitors_may_switch)
    except AcipError as error:
        say(str(error), title="Error:")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        raise SystemExit(130) from None


def serve(
    models: list[str],
    artifacts: list[str],
    precision: str,
    dtype: str,
    host: str,
    port: int,
    allowed_hosts: list[str],
    may_switch: bool,
) -> None:
    """Load a model, build the page and serve it until interrupted, or until somebody there asks for another model.

    One that cannot be opened gives way to the former one, with the reason on its page.

    Args:
        allowed_hosts: names of the page besides the machine's own.
        may_switch: whether visitors can ask for another model.

    Raises:
        AcipError: one sentence about the port, the first model or its artifact.
    """
    from ..ui.names import without_places
    from ..ui.server import PageServer

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what containers send means the same as Ctrl-C
    with PageServer(host, port, allowed_hosts) as server:
        from rich.console import Console  # once browsers get their first answer

        console = Console()
        with console.status("Starting …"):
            gc.disable()  # nothing of what is imported is garbage, and looking for it would take a fifth of the seconds
            from ..ui.launch import MountedPage
            from ..ui.model_choices import model_choices
            from ..ui.page import build_page

            gc.freeze()  # nor is it looked through afterwards, which would hold up everybody's texts for 0.3 s
            gc.enable()
        choices = model_choices(models, artifacts, precision=precision)
        choice, former, note = choices.models[0], None, ""
        while True:
            try:
                loaded = _opened(choice, dtype, note, console, server.waiting)
                with console.status("Building the page …"):
                    page = MountedPage(*build_page(loaded, choices if may_switch else None, choice), server.hosts)
            except AcipError as error:
                if former is None:
                    raise
                console.print(str(error))
                reason = without_places(str(error), choice.model, choice.artifact)
                note, choice, former = f"{choice.title} could not be opened. {reason}", former, None
                continue
            choices.open(choice)
            server.show(page)
            _announce(loaded, server.address, note, console)
            del loaded, page  # the next model comes once this one's memory is free
            former, choice, note = choice, choices.wait(), ""
            server.withdraw()
            gc.collect()


def _opened(choice: ModelChoice, dtype: str, note: str, console: Console, waiting: WaitingPage) -> Loaded:
    """A model as it was chosen, its progress drawn on the terminal and told to browsers that wait.

    Args:
        note: what the page says besides the artifact's own note.
    """
    from ..artifacts.loading import open_model
    from ..model.bank_file import keep_banks_in_file
    from ..ui.memory import give_back

    steps = open_model(choice.model, choice.artifact, precision=choice.precision, dtype=dtype)
    loaded = draw(steps, waiting.tell, console, transient=True)
    keep_banks_in_file(loaded.elastic)
    give_back()
    return replace(loaded, note=" ".join(filter(None, (note, loaded.note))))


def _announce(loaded: Loaded, address: str, note: str, console: Console) -> None:
    console.print(f"[bold]{loaded.elastic.base.source}[/] is ready at [bold cyan]{address}[/] (Ctrl-C to stop)")
    if note:  # that of an artifact is in the log
        console.print(note)
