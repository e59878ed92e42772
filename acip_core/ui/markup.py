"""HTML of the page's own parts, from the templates in `assets/parts`; what they do is in the scripts under `assets/`.

Knows nothing of gradio. Every value is escaped; one that goes into a component template also passes `literal`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from math import inf
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup, escape

from ..artifacts.loading import Loaded
from ..evaluation.curves import primary_curves
from ..evaluation.methods import corpus_title
from ..figures.size_table import Row
from ..model.size_planner import DIRECTIONS
from ..paths import assets_dir
from .examples import Examples
from .glossary import meaning
from .links import links
from .names import known_name, without_places

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
_environment.globals["meaning"] = meaning


def part(template: str, **values: Any) -> str:
    """A part of the page: the template of this name, filled in."""
    return _environment.get_template(f"{template}.html").render(values)


def header(title: str, loaded: Loaded) -> str:
    """The page's title, its model, where they come from, and the model's note, if it has one."""
    base = loaded.elastic.base
    name = known_name(base)
    told = "" if base.file is None else f"Read from the file {base.file.name}; what it holds is the original here."
    claims = [(spent, states, claim(loaded, spent, states.split()[0]).partition(name)) for spent, states in _CLAIMED]
    return part("header", title=title, note=model_note(loaded), claims=claims, told=told, links=links(loaded))


_PERPLEXITY = f"Perplexity is {meaning(['perplexity'])}."
_TOKEN = f"a token is {meaning(['token'])}"
_FIGURES = (
    (
        "size",
        "size",
        "of the file with all weights, and its share of the model as published; the share of its layers is smaller, "
        "because its tables of tokens are not among them",
    ),
    (
        "worse",
        "how much worse",
        f"perplexity on text that no step has seen, as a multiple of the original's; 1 is as good. {_PERPLEXITY}",
    ),
    (
        "same",
        "says the same",
        f"how often its likeliest next token is the original's, on the same text; {_TOKEN}",
    ),
)


def first_paint(title: str, claim: str, note: str, model: str, examples: Examples, published: int) -> str:
    """What a browser shows while the page's parts come: both texts of the size that it opens with.

    Args:
        note: the model's, if it has one.
        model: its name where visitors may choose another.
        published: bytes of the model as published.
    """
    texts = [("Original", examples.original), (_size(examples, published), examples.text)] if examples.text else []
    prompt = examples.prompts[0]
    return part("first_paint", title=title, claim=claim, note=note, model=model, prompt=prompt, texts=texts)


def model_note(loaded: Loaded) -> str:
    """What is to be said of the model, if anything; it names no places of this machine."""
    return without_places(loaded.note, loaded.elastic.base.source, loaded.artifact.source)


_SHARES = {20: "a fifth", 25: "a quarter", 33: "a third", 50: "half", 67: "two thirds", 75: "three quarters"}


# What is spent on the slider, and while its codes are in which states (`Preparation`).
_CLAIMED = (
    ("bits", "ready"),
    ("directions", "waiting running"),
    ("directions", "ready"),
    ("directions", "absent failed"),
)


def claim(loaded: Loaded, spent: str, state: str) -> str:
    """The page in one sentence: the smallest size that still knows nine in ten facts, where they were asked.

    Args:
        spent: "directions" or "bits", as on the slider.
        state: of the codes, as `Preparation` has it.
    """
    name = known_name(loaded.elastic.base)
    now, fewer = _least_share(loaded, spent), _least_share(loaded, "bits")
    if not now:
        return f"{name}, made smaller on the spot: drag the slider and see what it forgets."
    invited = "Drag the slider and see what it forgets."
    when = {"ready": "where bits are spent", "waiting": "once bits can be spent", "running": "once bits can be spent"}
    more = f", and at {fewer} {when[state]}" if fewer and spent == DIRECTIONS and state in when else ""
    return f"At {now} of its size {name} still gives 9 in 10 of its answers{more}. {invited}"


def _least_share(loaded: Loaded, spent: str) -> str:
    """The smallest size that still knows nine in ten facts, in words; empty where there is none worth naming."""
    modes = loaded.knowledge.modes.items() if loaded.knowledge else ()
    found = [known.opening_bytes for mode, known in modes if (mode == DIRECTIONS) == (spent == DIRECTIONS)]
    percent = 100 * min(filter(None, found), default=inf) / loaded.elastic.planner.base_bytes
    if percent > 95:
        return ""
    nearest = min(_SHARES, key=lambda share: abs(share - percent))
    return _SHARES[nearest] if abs(nearest - percent) <= 1 else f"{percent:.0f} %"


def completion(examples: Examples, loaded: Loaded) -> str:
    """The original's text beside that of the size the page opens with, as far as they were made beforehand."""
    prompt = examples.prompts[0] if examples.original else ""
    size = _size(examples, loaded.elastic.planner.base_bytes)
    return part("completion", prompt=prompt, original=examples.original, text=examples.text, size=size)


def _size(examples: Examples, published: int) -> str:
    if examples.mode == DIRECTIONS:
        return f"{examples.percent} %"
    return f"{examples.percent / 100 * published / 1e6:.3g} MB"


def readouts(row: Row, loaded: Loaded) -> str:
    """What the slider's size means, and the field for a target instead.

    Args:
        row: the size that the page opens with.
    """
    corpora = [curve.corpus for curve in primary_curves(loaded.artifact.curves)]
    tiles = [
        ("ratio", "size ratio", f"{row.ratio:.3f}", "stored parameters of the compressed layers ÷ their original ones"),
        ("parameters", "parameters in all", f"{row.parameters / 1e6:.1f} M", meaning(["parameter"])),
        (
            "megabytes",
            "size in all",
            f"{row.bytes / 1e6:.0f} MB",
            "of the file, tables of tokens included",
        ),
        ("saved", "saved", f"{100 * row.saved:.1f} %", "share of the published file's bytes"),
        *((f"ppl-{corpus}", f"perplexity, {corpus_title(corpus)}", "–", _on(corpus)) for corpus in corpora),
        ("divergence", "divergence", "–", meaning(["divergence"])),
        (
            "speed",
            "tokens/s, this machine",
            "–",
            f"of one text, once its speed is measured, under Inside the cut; {_TOKEN}",
        ),
    ]
    aims = [
        ("bytes", "megabytes, at most"),
        ("parameters", "million parameters, at most"),
        *((f"ppl-{corpus}", f"% worse on {corpus_title(corpus)}, at most") for corpus in corpora),
    ]
    return part("readouts", figures=_FIGURES, tiles=tiles, aims=aims)


def _on(corpus: str) -> str:
    """What perplexity on a corpus is."""
    return f"{meaning(['perplexity'])}; on {corpus_title(corpus)}, {meaning([corpus_title(corpus)])}"


def knowledge(facts: Mapping[str, Any], flags: str) -> str:
    """The facts that the model knows, as tiles in groups.

    Args:
        facts: as `KnowledgeStrip.facts`.
        flags: of the size that the page opens with, "1" where it knows a fact.
    """
    tiles = [
        {"number": i, "is_known": flag == "1", **fact}
        for i, (fact, flag) in enumerate(zip(facts["facts"], flags, strict=True))
    ]
    groups = [(name, list(of)) for name, of in groupby(tiles, key=lambda tile: tile["group"])]
    return part("knowledge", groups=groups, count=flags.count("1"), total=len(flags))
