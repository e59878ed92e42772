"""The generated parts of README.md and docs/: tables of what was measured, and what the program's `--help` says.

A part lies between `<!-- name -->` and `<!-- /name -->`; `python -m benchmarks --docs` renews all of them, and a test
fails where a document and its parts disagree, so no figure and no option is typed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

from acip_core.cli import app

from . import tables
from .coded import bytes_table
from .figure import markdown_table
from .paper import paper
from .peers.results import peers_table
from .tables import ROOT

_WIDTH = 100  # characters of a line of help
_PART = re.compile(r"<!-- (?P<name>[a-z]+) -->\n.*?<!-- /(?P=name) -->", re.DOTALL)


def documents() -> list[Path]:
    """The README, then everything in docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def refreshed(text: str) -> str:
    """A document's text with its generated parts renewed.

    Raises:
        ValueError: it has a part that nothing writes.
    """

    def renewed(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in PARTS:
            raise ValueError(f"Nothing writes the part <!-- {name} -->; there are {', '.join(PARTS)}.")
        return "\n".join([f"<!-- {name} -->", *_lines(name), f"<!-- /{name} -->"])

    return _PART.sub(renewed, text)


def refresh() -> None:
    """Write all documents anew."""
    for path in documents():
        path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")


def commands() -> list[str]:
    """Every verb of the command line: one table of all, then the help of each."""
    verbs = dict(_verbs("acip", typer.main.get_command(app)))
    lines = markdown_table(
        ["command", "what it does"],
        [
            [f"[`{name}`](#{name.replace(' ', '-')})", " ".join((verb.help or "").partition("\n\n")[0].split())]
            for name, verb in verbs.items()
        ],
    )
    for name, verb in verbs.items():
        verb.rich_markup_mode = None  # plain text, without boxes
        context = verb.context_class(verb, info_name=name, terminal_width=_WIDTH)
        lines += ["", f"## {name}", "", "```text", *verb.get_help(context).strip().splitlines(), "```"]
    return lines


def _verbs(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """All commands that do something, by their whole name: those of a group instead of the group."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for own, verb in command.commands.items():
        if not verb.hidden:
            yield from _verbs(f"{name} {own}", verb)


PARTS: dict[str, Callable[[], list[str]]] = {
    "summary": tables.summary,
    "bytes": bytes_table,
    "peers": peers_table,
    "perplexity": tables.perplexity,
    "precision": tables.precision,
    "comparison": tables.comparison,
    "ablation": tables.ablation,
    "parts": tables.parts,
    "figures": tables.figures,
    "reliability": tables.reliability,
    "paper": paper,
    "commands": commands,
}


@cache
def _lines(name: str) -> tuple[str, ...]:
    return tuple(PARTS[name]())
