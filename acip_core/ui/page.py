"""The page: its parts, their places, and which event runs what. Behaviour within the browser is in `assets/page.js`."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.helpers import Examples

from ..artifact import Curve, own_curves
from ..completions import EXAMPLES
from ..efficiency import lookup_parameters
from ..errors import ArtifactError
from ..loading import Loaded
from ..passage import MOST_CHARACTERS
from .chart import corpus_color, corpus_title, curve_figure
from .comparison import comparison_picture
from .cut import Cuts
from .handlers import MOST_COLUMNS, Handlers
from .pictures import gallery, history_pictures, layer_types, score_map_pictures
from .snippets import ADDRESS, client_code, loading_code
from .table import LARGEST_PERCENT, Row, size_table
from .tasks import task_pictures

TITLE = "One model, every size"
_COMPLETION = (
    '<div class="bar"><span class="label">Completion</span><span class="status" role="status"></span></div>'
    '<pre dir="auto" tabindex="0" aria-label="Completion"><span class="prompt"></span><span class="text"></span>'
    '<span class="ahead"></span></pre>'
)
_COMPARED = (100, 80, 60, 40)
_COMPARISON = (
    '<div class="bar"><span class="legend">To the full model a token is: <span class="likely">over 50 % likely</span>'
    '<span class="odd">10–50 %</span><span class="strange">1–10 %</span><span class="absurd">under 1 %</span>'
    '<span class="parted">the first that is not its own</span></span><span class="status" role="status"></span></div>'
    '<div class="columns" role="list"></div>'
)
_VISITS = (
    '<div class="bar"><span class="label">Visited</span><span>'
    '<button type="button" data-do="toggle" title="Flip between the last two (T)">Flip</button> '
    '<button type="button" data-do="undo" title="Undo (Ctrl+Z)">Undo</button> '
    '<button type="button" data-do="redo" title="Redo (Ctrl+Shift+Z)">Redo</button> '
    '<button type="button" data-do="clear" title="Forget all but the last">Clear</button></span></div>'
    '<ol class="chips" aria-label="Sizes visited"></ol>'
)
_READING = (
    '<div class="bar"><span><label class="file">Choose a .txt or .md file<input type="file" '
    'accept=".txt,.md,text/plain,text/markdown"></label> or drop one here</span>'
    '<span class="status" role="status"></span></div>'
    '<div class="read" hidden><div class="stage"><div class="plot" role="img" aria-label="Perplexity of your text '
    'against size, logarithmic"></div><div class="cursor"></div></div><div class="passage"><div class="bar">'
    '<span class="label"></span><span class="legend">Less likely than to the full model: <span class="odd">2–5 ×</span>'
    '<span class="strange">5–20 ×</span><span class="absurd">over 20 ×</span></span></div>'
    '<pre dir="auto" tabindex="0" aria-label="Your text"></pre></div></div>'
)
_EFFICIENCY = (
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
_TAKE = (
    '<p class="told">A folder for transformers, as a ZIP file: weights, tokenizer, model card.</p>'
    '<p><progress max="1" value="0" hidden aria-label="Export"></progress> <span class="status" role="status"></span> '
    '<a class="file" download hidden></a></p>'
    + _SNIPPET.format(kind="load", title="Load it, unpacked")
    + _SNIPPET.format(kind="use", title="Use this page from Python")
)
ASSETS = Path(__file__).parents[2] / "assets"
_CONCURRENT_RUNS = 50  # more than the model admits and lets wait in line, so that it says who is ahead


def build_page(loaded: Loaded) -> tuple[gr.Blocks, Handlers]:
    """The page for a loaded model, and its server side."""
    handlers = Handlers(loaded)
    lookups = lookup_parameters(loaded.elastic.base.model)
    rows = size_table(loaded.elastic.planner, loaded.artifact.curves, lookups)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_header(loaded), apply_default_css=False, elem_id="header", js_on_load=None)
        with gr.Row(elem_id="main"):
            with gr.Column(scale=6, min_width=340):
                prompt, examples = _prompt_part()
                percent, readouts = _size_part(rows, loaded)
                completion, run, stop = _completion_part()
            with gr.Column(scale=5, min_width=340):
                measured, measure, stop_measuring = _curve_part(rows, loaded)
                _visits_part()
                settings = _advanced_part(loaded)
        sizes, compared, compare, stop_comparing = _compare_part(rows)
        own, read_out, read, stop_reading = _reading_part(rows[0].percent)
        exported, export, stop_exporting = _take_part(loaded)
        _pictures_part(loaded, rows[0].percent)
        asked = [prompt, percent, *settings]
        restored = page.load(
            None,
            asked,
            asked,
            js="(...inputs) => acipLink.read(inputs)",
            show_progress="hidden",
            api_visibility="private",
        )
        start = [run.click, completion.release, prompt.submit, examples.load_input_event.then, restored.then]
        for event in start:
            event(
                handlers.sweep,
                asked,
                completion,
                js="(...inputs) => acipLink.write(inputs)",
                show_progress="hidden",
                trigger_mode="multiple",  # a newer run replaces the former on the server
                concurrency_limit=_CONCURRENT_RUNS,
                concurrency_id="completion",
                api_visibility="private",
            )
        gr.api(handlers.complete, concurrency_limit=_CONCURRENT_RUNS, concurrency_id="completion")
        measure.click(
            handlers.measure,
            percent,
            measured,
            show_progress="hidden",
            trigger_mode="multiple",
            concurrency_limit=_CONCURRENT_RUNS,
            concurrency_id="measurement",
            api_name="measure",
        )
        readouts.tick(
            handlers.speed,
            None,
            readouts,
            show_progress="hidden",
            trigger_mode="once",
            concurrency_limit=_CONCURRENT_RUNS,
            concurrency_id="measurement",
            api_name="speed",
        )
        compare.click(
            handlers.compare,
            [prompt, sizes, *settings],
            compared,
            show_progress="hidden",
            trigger_mode="multiple",
            concurrency_limit=_CONCURRENT_RUNS,
            concurrency_id="completion",
            api_name="compare",
        )
        read.click(
            handlers.read,
            [own, percent],
            read_out,
            show_progress="hidden",
            trigger_mode="multiple",
            concurrency_limit=_CONCURRENT_RUNS,
            concurrency_id="measurement",
            api_name="read",
        )
        export.click(
            handlers.export,
            percent,
            exported,
            show_progress="hidden",
            trigger_mode="multiple",
            concurrency_limit=_CONCURRENT_RUNS,
            concurrency_id="export",
            api_name="export",
        )
        stop.click(handlers.stop, queue=False, show_progress="hidden", api_visibility="private")
        stop_comparing.click(handlers.stop_comparing, queue=False, show_progress="hidden", api_visibility="private")
        stop_measuring.click(handlers.stop_measuring, queue=False, show_progress="hidden", api_visibility="private")
        stop_reading.click(handlers.stop_reading, queue=False, show_progress="hidden", api_visibility="private")
        stop_exporting.click(handlers.stop_exporting, queue=False, show_progress="hidden", api_visibility="private")
        page.unload(handlers.leave)
    return page, handlers


def _prompt_part() -> tuple[gr.Textbox, Examples]:
    prompt = gr.Textbox(
        value=EXAMPLES[0],
        label="Prompt",
        lines=2,
        max_lines=6,
        elem_id="prompt",
        info=None,
        placeholder="Type the beginning of a text",
    )
    examples: Examples = gr.Examples(
        [[text] for text in EXAMPLES], prompt, label="Try one of these", elem_id="examples", api_visibility="private"
    )
    return prompt, examples


def _size_part(rows: list[Row], loaded: Loaded) -> tuple[gr.Slider, gr.HTML]:
    with gr.Group(elem_id="size-group"):
        percent = gr.Slider(
            rows[0].percent,
            LARGEST_PERCENT,
            value=LARGEST_PERCENT,
            step=1,
            label="Size, % of the original",
            elem_id="size",
            buttons=[],
        )
        measured = sorted({round(100 * p.ratio) for c in _own(loaded) for p in c.points})
        readouts = gr.HTML(
            value=None,
            label="Speed",
            html_template=_readouts(rows[-1], loaded),
            js_on_load="acip.sizes(element, props, watch, () => trigger('tick'));",
            apply_default_css=False,
            elem_id="readouts",
            table=[asdict(row) for row in rows],
            ticks=measured,
        )
    return percent, readouts


def _completion_part() -> tuple[gr.HTML, gr.Button, gr.Button]:
    completion = gr.HTML(
        value=None,
        label="Completion",
        html_template=_COMPLETION,
        js_on_load="acip.completion(element, props, watch, () => trigger('release'));",
        apply_default_css=False,
        elem_id="completion",
    )
    with gr.Row(elem_id="actions"):
        run = gr.Button("Complete", variant="primary", elem_id="run", size="md")
        stop = gr.Button("Stop", variant="secondary", elem_id="stop", size="md")
    return completion, run, stop


def _visits_part() -> None:
    gr.HTML(
        html_template=_VISITS,
        js_on_load=_script("visits.js") + "acipVisits.follow(element);",
        apply_default_css=False,
        elem_id="visits",
    )


def _curve_part(rows: list[Row], loaded: Loaded) -> tuple[gr.HTML, gr.Button, gr.Button]:
    curves = loaded.artifact.curves
    measured = gr.HTML(
        value=None,
        label="Measurement",
        html_template=_chart(bool(curves)),
        js_on_load="acip.chart(element, props, watch);",
        apply_default_css=False,
        elem_id="chart",
        figure=curve_figure(curves, rows[0].percent),
        corpora=[
            {"corpus": c.corpus, "title": corpus_title(c.corpus), "color": corpus_color(c.corpus)}
            for c in own_curves(curves)
        ],
    )
    with gr.Row(elem_id="measure-actions"):
        measure = gr.Button("Measure this size on held-out text", elem_id="measure", size="md", scale=4)
        stop = gr.Button("Stop measuring", elem_id="stop-measuring", size="md", scale=2, min_width=120)
    return measured, measure, stop


def _compare_part(rows: list[Row]) -> tuple[gr.Dropdown, gr.HTML, gr.Button, gr.Button]:
    with gr.Column(elem_id="compare-view"):
        with gr.Row(elem_id="compare-actions"):
            sizes = gr.Dropdown(
                [row.percent for row in reversed(rows)],
                value=[percent for percent in _COMPARED if percent >= rows[0].percent],
                multiselect=True,
                max_choices=MOST_COLUMNS,
                label="Side by side at these sizes, % of the original",
                elem_id="compare-sizes",
                scale=6,
            )
            compare = gr.Button("Compare", variant="primary", elem_id="compare", size="md", scale=1, min_width=120)
            stop = gr.Button("Stop comparing", elem_id="stop-comparing", size="md", scale=1, min_width=140)
        compared = gr.HTML(
            value=None,
            label="Comparison",
            html_template=_COMPARISON,
            js_on_load=_script("compare.js") + "acipCompare.follow(element, props, watch);",
            apply_default_css=False,
            elem_id="comparison",
            most=MOST_COLUMNS,
        )
    return sizes, compared, compare, stop


def _reading_part(smallest: int) -> tuple[gr.Textbox, gr.HTML, gr.Button, gr.Button]:
    with gr.Accordion("Your text", open=False, elem_id="reading"):
        own = gr.Textbox(
            label="What does a smaller model forget of it?",
            info="Read by this page's model at every size, kept nowhere.",
            placeholder="Paste a text",
            lines=4,
            max_lines=10,
            elem_id="own-text",
        )
        with gr.Row(elem_id="reading-actions"):
            read = gr.Button("Read at every size", variant="primary", elem_id="read", size="md", scale=1)
            stop = gr.Button("Stop reading", elem_id="stop-reading", size="md", scale=1)
        read_out = gr.HTML(
            value=None,
            label="Your text",
            html_template=_READING,
            js_on_load=_script("reading.js") + "acipReading.follow(element, props, watch);",
            apply_default_css=False,
            elem_id="read-out",
            most=MOST_CHARACTERS,
            low=smallest,
        )
    return own, read_out, read, stop


def _take_part(loaded: Loaded) -> tuple[gr.HTML, gr.Button, gr.Button]:
    """Closed until somebody asks; the addresses in its code are the page's own."""
    with gr.Accordion("Take it away", open=False, elem_id="take"):
        with gr.Row(elem_id="take-actions"):
            export = gr.Button("Export this size", variant="primary", elem_id="export", size="md", scale=1)
            stop = gr.Button("Stop exporting", elem_id="stop-exporting", size="md", scale=1)
        exported = gr.HTML(
            value=None,
            label="Export",
            html_template=_TAKE.format(
                load=_literal(loading_code(f"{loaded.elastic.base.name}-at-60", True)), use=_literal(client_code())
            ),
            js_on_load=_script("take.js") + "acipTake.follow(element, props, watch);",
            apply_default_css=False,
            elem_id="exported",
            address=ADDRESS,
        )
    return exported, export, stop


def _advanced_part(loaded: Loaded) -> list[gr.components.Component]:
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        with gr.Row():
            temperature = gr.Slider(
                0, 2, value=0, step=0.05, label="Temperature", info="0 picks the likeliest token", buttons=[]
            )
            top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info="keeps the likeliest tokens", buttons=[])
        with gr.Row():
            length = gr.Slider(8, 512, value=96, step=8, label="Length", info="most tokens to write", buttons=[])
            seed = gr.Number(0, precision=0, label="Seed", info="same seed, same text", elem_id="seed")
        chat = gr.Checkbox(
            False,
            label="Use the chat template",
            info="answer the prompt instead of continuing it",
            visible=bool(loaded.elastic.tokenizer.chat_template),
        )
    return [temperature, top_p, seed, length, chat]


def _pictures_part(loaded: Loaded, smallest: int) -> None:
    """What the cut does and how the artifact was made; nothing is computed, sent or drawn before it is opened."""
    kinds = list(layer_types(loaded.artifact))
    show = _gallery_source(loaded, smallest)
    with gr.Accordion("Inside the cut, and how it was made", open=False, elem_id="pictures") as part:
        gr.HTML(
            html_template=_EFFICIENCY,
            js_on_load=_script("efficiency.js") + "acipEfficiency.follow(element);",
            apply_default_css=False,
            elem_id="efficiency",
        )
        kind = gr.Radio(kinds, value=kinds[0], label="Layer type", elem_id="layer-type")
        galleries = [
            gr.HTML(
                value=None,
                html_template='<div class="pictures"></div>',
                js_on_load=_script("pictures.js") + "acipPictures.follow(element, props, watch);",
                apply_default_css=False,
                elem_id=place,
            )
            for place in ("score-map", "history")
        ]
    quietly: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    part.expand(show, kind, galleries, **quietly)
    kind.input(lambda kind: show(kind)[0], kind, galleries[0], **quietly)


def _gallery_source(
    loaded: Loaded, smallest: int
) -> Callable[[str], tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """What the two galleries show for a layer type: its score map, and all other pictures; made at the first call."""
    artifact = loaded.artifact

    @cache
    def pictures() -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
        kinds, maps = layer_types(artifact), score_map_pictures(artifact)
        lengths = {name: len(artifact.scores[name]) for name in loaded.elastic.elastic_layers()}
        cuts = Cuts(loaded.elastic.planner, lengths, smallest)
        found = {kind: gallery([cuts.through(maps[kind], kinds[kind]), cuts.kept(kinds)]) for kind in maps}
        others = [comparison_picture(loaded.comparison)] if loaded.comparison and loaded.comparison.results else []
        return found, gallery([*task_pictures(loaded.evaluation), *others, *history_pictures(artifact.history)])

    def show(kind: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        try:
            maps, history = pictures()
        except ArtifactError as error:
            return [{"title": "There are no pictures", "note": str(error), "figure": None}], []
        return maps[kind], history

    return show


def _script(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _header(loaded: Loaded) -> str:
    source = html.escape(loaded.elastic.base.source)
    note = f'<p class="note">{html.escape(loaded.note)}</p>' if loaded.note else ""
    return (
        f'<h1>{TITLE}</h1><p>Drag the slider: <b data-model="{source}">{source}</b>'
        f" is cut to that size on the spot, and goes on writing. "
        f"Nothing is reloaded or retrained.</p>{note}"
    )


def _readouts(row: Row, loaded: Loaded) -> str:
    tiles = [
        ("ratio", "size ratio", f"{row.ratio:.3f}"),
        ("parameters", "parameters in all", f"{row.parameters / 1e6:.1f} M"),
        ("megabytes", "size in all", f"{row.bytes / 1e6:.0f} MB"),
        ("saved", "saved", f"{100 * row.saved:.1f} %"),
    ]
    tiles += [(f"ppl-{c.corpus}", f"perplexity, {corpus_title(c.corpus)}", "–") for c in _own(loaded)]
    cells = "".join(
        f'<div class="tile"><dd data-key="{_literal(key)}">{value}</dd><dt>{_literal(name)}</dt></div>'
        for key, name, value in tiles
    )
    aims = [("bytes", "megabytes, at most"), ("parameters", "million parameters, at most")]
    aims += [(f"ppl-{c.corpus}", f"% worse on {corpus_title(c.corpus)}, at most") for c in _own(loaded)]
    options = "".join(f'<option value="{_literal(key)}">{_literal(name)}</option>' for key, name in aims)
    return (
        f'<div class="ready"></div><div class="ticks" aria-label="measured sizes"></div><dl class="tiles">{cells}</dl>'
        f'<div class="aim"><label>Or aim for <input type="number" min="0" step="any" aria-label="Target"></label>'
        f'<select aria-label="What the target is">{options}</select><span class="told" role="status"></span></div>'
    )


def _own(loaded: Loaded) -> list[Curve]:
    return own_curves(loaded.artifact.curves)


def _literal(text: str) -> str:
    """Text that stays itself in a component template, which knows HTML, Handlebars and JavaScript template literals."""
    escaped = html.escape(text)
    return "".join(f"&#{ord(c)};" if c in "`${}\\" else c for c in escaped)


def _chart(measured: bool) -> str:
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
