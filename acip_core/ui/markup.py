"""HTML of the page's own parts; what they do is in the scripts under `assets/`. Knows nothing of gradio."""

from __future__ import annotations

import html

from ..artifacts.loading import Loaded
from ..evaluation.curves import primary_curves
from ..evaluation.methods import corpus_title
from ..figures.size_table import Row
from .names import shown_name, without_places

COMPLETION = (
    '<div class="bar"><span class="label">Completion</span><span class="status" role="status"></span></div>'
    '<pre dir="auto" tabindex="0" aria-label="Completion"><span class="prompt"></span><span class="text"></span>'
    '<span class="ahead"></span></pre>'
)
COMPARISON = (
    '<div class="bar"><span class="legend">To the full model a token is: <span class="likely">over 50 % likely</span>'
    '<span class="odd">10–50 %</span><span class="strange">1–10 %</span><span class="absurd">under 1 %</span>'
    '<span class="parted">the first that is not its own</span></span><span class="status" role="status"></span></div>'
    '<div class="columns" role="list"></div>'
)
VISITS = (
    '<div class="bar"><span class="label">Visited</span><span>'
    '<button type="button" data-do="toggle" title="Flip between the last two (T)">Flip</button> '
    '<button type="button" data-do="undo" title="Undo (Ctrl+Z)">Undo</button> '
    '<button type="button" data-do="redo" title="Redo (Ctrl+Shift+Z)">Redo</button> '
    '<button type="button" data-do="clear" title="Forget all but the last">Clear</button></span></div>'
    '<ol class="chips" aria-label="Sizes visited"></ol>'
)
READING = (
    '<div class="bar"><span><label class="file">Choose a .txt or .md file<input type="file" '
    'accept=".txt,.md,text/plain,text/markdown"></label> or drop one here</span>'
    '<span class="status" role="status"></span></div>'
    '<div class="read" hidden><div class="stage"><div class="plot" role="img" aria-label="Perplexity of your text '
    'against size, logarithmic"></div><div class="cursor"></div></div><div class="passage"><div class="bar">'
    '<span class="label"></span><span class="legend">Less likely than to the full model: <span class="odd">2–5 ×</span>'
    '<span class="strange">5–20 ×</span><span class="absurd">over 20 ×</span></span></div>'
    '<pre dir="auto" tabindex="0" aria-label="Your text"></pre></div></div>'
)
EFFICIENCY = (
    '<div class="bar"><span class="label"></span><span><span class="status" role="status"></span> '
    '<button type="button" data-do="time">Measure speed</button></span></div>'
    "<table><thead><tr>"
    + "".join(f'<th scope="col">{title}</th>' for title in ("cost", "this size", "full model", "of it"))
    + "</tr></thead><tbody>"
    + "".join(
        f'<tr data-key="{key}"><th scope="row">{title}</th><td></td><td></td><td></td></tr>'
        for key, title in {
            "parameters": "parameters",
            "bytes": "megabytes",
            "flops": "operations per token",
            "speed": "tokens per second, measured here",
        }.items()
    )
    + "</tbody></table>"
)
_SNIPPET = (
    '<div class="snippet {kind}"><div class="bar"><span class="label">{title}</span>'
    '<button type="button" data-copy>Copy</button></div>'
    '<pre tabindex="0" aria-label="{title}"><code>{{{kind}}}</code></pre></div>'
)
TAKE = (
    '<p class="told">A folder for transformers, as a ZIP file: weights, tokenizer, model card.</p>'
    '<p><progress max="1" value="0" hidden aria-label="Export"></progress> <span class="status" role="status"></span> '
    '<a class="file" download hidden></a></p>'
    + _SNIPPET.format(kind="load", title="Load it, unpacked")
    + _SNIPPET.format(kind="use", title="Use this page from Python")
)
METHOD = (
    '<section id="how" class="drawer" role="dialog" aria-label="How it works" tabindex="-1" hidden>'
    '<div class="bar"><h2>How it works</h2><button type="button" data-close>Close</button></div>'
    "<p>Five pictures of this model, drawn from its own data; they follow the slider.</p>"
    '<div class="pictures" data-gallery="method"></div></section>'
)


def header(title: str, loaded: Loaded) -> str:
    source = html.escape(shown_name(loaded.elastic.base.source))
    told = without_places(loaded.note, loaded.elastic.base.source, loaded.artifact.source)
    note = f'<p class="note">{html.escape(told)}</p>' if told else ""
    return (
        f'<div class="bar"><h1>{title}</h1><button type="button" data-method aria-expanded="false" '
        f'aria-controls="how">How it works</button></div><p>Drag the slider: <b data-model="{source}">{source}</b>'
        f" is cut to that size on the spot, and goes on writing. "
        f"Nothing is reloaded or retrained.</p>{note}"
    )


def switch(model: str, precision: str) -> str:
    """What a visitor confirms before everybody gets another model; the attributes are what is open now."""
    return (
        f'<p role="status" data-model="{html.escape(model)}" data-precision="{html.escape(precision)}">'
        "Everybody who is on this page now is interrupted while it restarts with <b></b>.</p>"
    )


def readouts(row: Row, loaded: Loaded) -> str:
    tiles = [
        ("ratio", "size ratio", f"{row.ratio:.3f}"),
        ("parameters", "parameters in all", f"{row.parameters / 1e6:.1f} M"),
        ("megabytes", "size in all", f"{row.bytes / 1e6:.0f} MB"),
        ("saved", "saved", f"{100 * row.saved:.1f} %"),
    ]
    tiles += [
        (f"ppl-{c.corpus}", f"perplexity, {corpus_title(c.corpus)}", "–")
        for c in primary_curves(loaded.artifact.curves)
    ]
    cells = "".join(
        f'<div class="tile"><dd data-key="{literal(key)}">{value}</dd><dt>{literal(name)}</dt></div>'
        for key, name, value in tiles
    )
    aims = [("bytes", "megabytes, at most"), ("parameters", "million parameters, at most")]
    aims += [
        (f"ppl-{c.corpus}", f"% worse on {corpus_title(c.corpus)}, at most")
        for c in primary_curves(loaded.artifact.curves)
    ]
    options = "".join(f'<option value="{literal(key)}">{literal(name)}</option>' for key, name in aims)
    return (
        f'<div class="ready"></div><div class="ticks" aria-label="measured sizes"></div><dl class="tiles">{cells}</dl>'
        f'<div class="aim"><label>Or aim for <input type="number" min="0" step="any" aria-label="Target"></label>'
        f'<select aria-label="What the target is">{options}</select><span class="told" role="status"></span></div>'
    )


def literal(text: str) -> str:
    """Text that stays itself in a component template, which knows HTML, Handlebars and JavaScript template literals."""
    escaped = html.escape(text)
    return "".join(f"&#{ord(c)};" if c in "`${}\\" else c for c in escaped)


def chart(measured: bool) -> str:
    told = "Measured beforehand on held-out text." if measured else "Nothing is measured yet; the button below does it."
    return (
        '<div class="bar"><span class="label">Perplexity at every size</span><span>against '
        '<select data-axis aria-label="What perplexity is shown against"><option value="ratio">size, %</option>'
        '<option value="bytes">megabytes</option><option value="speed">tokens per second</option></select> · '
        'save as <button type="button" data-save="png">PNG</button> '
        '<button type="button" data-save="csv">CSV</button></span></div>'
        '<div class="stage"><div class="plot" role="img" aria-label="Perplexity against size, logarithmic"></div>'
        '<div class="cursor"></div></div>'
        f'<p class="status" role="status">{told}</p>'
    )
