"""All verbs as one program; a user's mistake is one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import AcipError
from . import keeping, making, measuring, page, using
from .drawing import is_main_process, say
from .former import current_form

_INTERRUPTED = 130
_VERBS: dict[str, dict[str, Callable[..., Any]]] = {
    "Use a model": {"generate": using.generate, "app": page.main, "export": using.export},
    "Make an artifact": {"precompute": making.precompute, "codes": making.codes, "finetune": making.finetune},
    "Keep an artifact": {
        "report": keeping.report, "examples": keeping.examples, "renew": keeping.renew, "push": keeping.publish,
        "prepare": keeping.prepare,
    },
}  # fmt: skip
_MEASURES: dict[str, Callable[..., Any]] = {
    "curve": measuring.curve, "agreement": measuring.agreement, "knowledge": measuring.knowledge,
    "precision": measuring.precision, "tasks": measuring.tasks, "methods": measuring.methods,
    "ablations": measuring.ablations,
}  # fmt: skip


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"acip {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass  # its callback has done it


def _program() -> typer.Typer:
    settings: dict[str, Any] = {"add_completion": False, "no_args_is_help": True, "pretty_exceptions_enable": False}
    program = typer.Typer(help="Any size of a language model from one score map.", **settings)
    program.callback()(_options)
    for panel, verbs in _VERBS.items():
        for name, function in verbs.items():
            program.command(name, rich_help_panel=panel)(function)
    measure = typer.Typer(**settings)
    for name, function in _MEASURES.items():
        measure.command(name)(function)
    help_text = "Measure a model's sizes and keep the figures in its artifact."
    program.add_typer(measure, name="measure", help=help_text, rich_help_panel="Measure")
    return program


app = _program()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2, Ctrl-C is 130.

    Args:
        arguments: verb and options; the process's own by default.
    """
    arguments, note = current_form(sys.argv[1:] if arguments is None else arguments)
    if note and is_main_process():
        say(note)
    try:
        code = app(arguments, prog_name="acip", standalone_mode=False)
    except AcipError as error:
        say(str(error), title="Error:")
        sys.exit(2)
    except BrokenPipeError:  # who read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        error.show() if hasattr(error, "show") else None
        sys.exit(error.exit_code)
    if code == _INTERRUPTED:  # typer turns Ctrl-C into this instead of raising
        say("Stopped; finished work is kept, the same command continues.")
    sys.exit(code or 0)
