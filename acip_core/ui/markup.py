"""HTML of the page's own parts, from the templates in `assets/parts`; what they do is in the scripts under `assets/`.

Knows nothing of gradio. Every value is escaped; one that goes into a component template also passes `literal`.
"""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup, escape

from ..artifacts.loading import Loaded
from ..evaluation.curves import primary_curves
from ..evaluation.methods import corpus_title
from ..figures.size_table import Row
from ..paths import assets_dir
from .names import shown_name, without_places

_PARTS = assets_dir() / "parts"


class _Joined(Extension):
    """Line breaks and indentation in the templates are for readers, not for browsers, which show them as spaces."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return re.sub(r"\n\s*", "", source)


def literal(text: str) -> Markup:
    """Text that stays itself in a component template, which knows HTML, Handlebars and JavaScript template literals."""
    return Markup("".join(f"&#{ord(c)};" if c in "`${}\\" else c for c in escape(text)))


_environment = Environment(
    loader=FileSystemLoader(_PARTS), autoescape=True, undefined=StrictUndefined, extensions=[_Joined]
)
_environment.filters["literal"] = literal


def part(template: str, **values: Any) -> str:
    """A part of the page: the template of this name, filled in."""
    return _environment.get_template(f"{template}.html").render(values)


def header(title: str, loaded: Loaded) -> str:
    """The page's title, its model, and the model's note, if it has one."""
    note = without_places(loaded.note, loaded.elastic.base.source, loaded.artifact.source)
    return part("header", title=title, source=shown_name(loaded.elastic.base.source), note=note)


def readouts(row: Row, loaded: Loaded) -> str:
    """What the slider's size means, and the field for a target instead.

    Args:
        row: the size that the page opens with.
    """
    corpora = [curve.corpus for curve in primary_curves(loaded.artifact.curves)]
    tiles = [
        ("ratio", "size ratio", f"{row.ratio:.3f}"),
        ("parameters", "parameters in all", f"{row.parameters / 1e6:.1f} M"),
        ("megabytes", "size in all", f"{row.bytes / 1e6:.0f} MB"),
        ("saved", "saved", f"{100 * row.saved:.1f} %"),
        *((f"ppl-{corpus}", f"perplexity, {corpus_title(corpus)}", "–") for corpus in corpora),
    ]
    aims = [
        ("bytes", "megabytes, at most"),
        ("parameters", "million parameters, at most"),
        *((f"ppl-{corpus}", f"% worse on {corpus_title(corpus)}, at most") for corpus in corpora),
    ]
    return part("readouts", tiles=tiles, aims=aims)
