"""Start the page: `python app.py`, then drag the slider in a browser."""

from __future__ import annotations

import gc
import os
import signal
import sys
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from acip_core.errors import AcipError
from acip_core.ui.hosts import is_loopback
from acip_core.ui.names import without_places
from acip_core.ui.waiting import WaitingPage


def default_host() -> str:
    """Only this machine, unless the environment says otherwise or a Hugging Face Space runs the page."""
    return os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1")


def main(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Hub id, folder or GGUF file, the embedded default otherwise; several to switch between."),
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
            help="Let any visitor switch model and precision for everybody; on where only this machine can visit.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Open a language model at any size between 30 and 100 % in the browser."""
    try:
        host = host or default_host()
        if visitors_may_switch is None:
            visitors_may_switch = is_loopback(host) and not os.environ.get("SPACE_ID")
        serve(model or [], artifact or [], precision, dtype, host, port, allowed_host or [], visitors_may_switch)
    except AcipError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        raise typer.Exit(130) from None


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
        may_switch: whether visitors can ask for another model or precision.

    Raises:
        AcipError: one sentence about the port, the first model or its artifact.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what containers send means the same as Ctrl-C
    console = Console()
    offer = choice = former = None
    note = ""
    while True:
        with WaitingPage(host, port, allowed_hosts) as waiting:
            with console.status("Starting …"):
                from acip_core.artifacts.loading import open_model  # what follows takes seconds to import
                from acip_core.ui.launch import close, launch
                from acip_core.ui.offer import offered
                from acip_core.ui.page import build_page
            offer = offer or offered(models, artifacts, precision=precision)
            choice = choice or offer.choices[0]
            try:
                steps = open_model(choice.model, choice.artifact, precision=choice.precision, dtype=dtype)
                loaded = _told(steps, console, waiting)
                loaded = replace(loaded, note=" ".join(filter(None, (note, loaded.note))))
                with console.status("Building the page …"):
                    page, handlers = build_page(loaded, offer if may_switch else None, choice)
            except AcipError as error:
                if former is None:
                    raise
                console.print(str(error))
                reason = without_places(str(error), choice.model, choice.artifact)
                note, choice, former = f"{choice.title} could not be opened. {reason}", former, None
                continue
        address = launch(page, handlers, host, port, allowed_hosts)
        console.print(f"[bold]{loaded.elastic.base.source}[/] is ready at [bold cyan]{address}[/] (Ctrl-C to stop)")
        if note:  # that of an artifact is in the log
            console.print(note)
        try:
            former, choice, note = choice, offer.wait(choice), ""
        finally:
            close(page, handlers)
        del loaded, page, handlers  # before the next model comes
        gc.collect()


def _told(steps, console: Console, waiting: WaitingPage):
    """Run a computation to its end, drawing its progress on the terminal and in browsers that wait."""
    from acip_core.progress import finish

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("loading", total=None)

        def tell(step) -> None:
            bars.update(task, description=step.stage, completed=step.done, total=step.total)
            waiting.tell(step)

        return finish(steps, tell)


if __name__ == "__main__":
    typer.run(main)
