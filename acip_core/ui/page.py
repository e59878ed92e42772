"""The page: its parts, their places, and which event runs what. Behaviour within the browser is in `assets/page.js`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from ..artifacts.completions import EXAMPLES
from ..artifacts.loading import Loaded
from ..data.passage import MOST_CHARACTERS
from ..evaluation.curves import primary_curves
from ..evaluation.methods import corpus_color, corpus_symbol, corpus_title
from ..figures.chart import curve_figure
from ..figures.size_table import LARGEST_PERCENT, Row, size_table
from ..generation.speed import lookup_parameters
from ..ui import markup
from .handlers import MOST_COLUMNS, Handlers
from .offer import Choice, Offer, OfferError
from .snippets import ADDRESS, client_code, loading_code

TITLE = "One model, every size"
_COMPARED = (100, 80, 60, 40)
_PRECISIONS = {
    "full": "full, as the model came",
    "int8": "int8",
    "int4": "int4, leading directions int8",
    "nf4": "nf4, leading directions int8",
    "fp4": "fp4, leading directions int8",
}
ASSETS = Path(__file__).parents[2] / "assets"
_CONCURRENT_RUNS = 50  # more than the model admits and lets wait in line, so that it says who is ahead


def build_page(loaded: Loaded, offer: Offer | None = None, current: Choice | None = None) -> tuple[gr.Blocks, Handlers]:
    """The page for a loaded model, and its server side.

    Args:
        offer: the models and precisions that visitors can switch to; none where they cannot.
        current: the loaded one among them.
    """
    handlers = Handlers(loaded)
    lookups = lookup_parameters(loaded.elastic.base.model)
    rows = size_table(loaded.elastic.planner, loaded.artifact.curves, lookups)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(markup.header(TITLE, loaded), apply_default_css=False, elem_id="header", js_on_load=None)
        if offer and current:
            _switch_part(offer, current)
        with gr.Row(elem_id="main"):
            with gr.Column(scale=6, min_width=340):
                prompt, picked = _prompt_part()
                percent, readouts = _size_part(rows, loaded)
                completion, run, stop = _completion_part()
            with gr.Column(scale=5, min_width=340):
                measured, measure, stop_measuring = _curve_part(rows, loaded)
                _visits_part()
                settings = _advanced_part(loaded)
        sizes, compared, compare, stop_comparing = _compare_part(rows)
        own, read_out, read, stop_reading = _reading_part(rows[0].percent)
        exported, export, stop_exporting = _take_part(loaded)
        _pictures_part(handlers.galleries.kinds)
        _method_part()
        asked = [prompt, percent, *settings]
        restored = page.load(
            None,
            asked,
            asked,
            js="(...inputs) => acipLink.read(inputs)",
            show_progress="hidden",
            api_visibility="private",
        )
        start = [run.click, completion.release, prompt.submit, picked.then, restored.then]
        for event in start:
            event(
                handlers.sweep,
                asked,
                completion,
                js="(...inputs) => acipLink.write(inputs)",
                preprocess=False,  # the handlers check what comes, and say what is wrong with it
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
            preprocess=False,
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
            preprocess=False,
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
            preprocess=False,
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
            preprocess=False,
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
            preprocess=False,
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


def _switch_part(offer: Offer, current: Choice) -> None:
    with gr.Row(elem_id="switch"):
        model = gr.Dropdown(
            [choice.title for choice in offer.choices],
            value=current.title,
            label="Model",
            info="One at a time: everybody on this page gets the one you choose.",
            elem_id="model",
            visible=len(offer.choices) > 1,
            min_width=240,
        )
        precision = gr.Dropdown(
            [(_PRECISIONS[name], name) for name in offer.precisions],
            value=current.precision,
            label="Precision",
            info="Of the compressed layers, for everybody on this page.",
            elem_id="precision",
            min_width=240,
        )
    with gr.Row(elem_id="switch-asked"):
        told = markup.switch(current.title, current.precision)
        gr.HTML(told, apply_default_css=False, elem_id="switch-told", js_on_load=None)
        switch = gr.Button("Switch", elem_id="switch-yes", size="md", scale=0, min_width=110)
        keep = gr.Button("Keep this one", elem_id="switch-no", size="md", scale=0, min_width=140)
    chosen = [model, precision]
    for part in chosen:
        part.input(None, chosen, js="(...chosen) => acipLink.switching(chosen)")
    keep.click(None, None, chosen, js="() => acipLink.kept()")
    switch.click(
        _switch(offer), chosen, preprocess=False, show_progress="hidden", queue=False, api_visibility="private"
    ).success(None, js="() => acipLink.leave()")


def _switch(offer: Offer) -> Callable[[Any, Any], None]:
    def ask(title: Any, precision: Any) -> None:
        try:
            offer.ask(title, precision)
        except OfferError as error:
            raise gr.Error(str(error), title="Not switched", print_exception=False) from None

    return ask


def _prompt_part() -> tuple[gr.Textbox, Dependency]:
    """The prompt, and what happens after one was picked."""
    prompt = gr.Textbox(
        value=EXAMPLES[0],
        label="Prompt",
        lines=2,
        max_lines=6,
        elem_id="prompt",
        info=None,
        placeholder="Type the beginning of a text",
    )
    samples = [[text] for text in EXAMPLES]
    examples = gr.Dataset(label="Try one of these", components=[prompt], samples=samples, elem_id="examples")
    picked = examples.click(None, examples, prompt, js=f"(index) => {json.dumps(EXAMPLES)}[index]")
    return prompt, picked


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
        measured = sorted({round(100 * p.ratio) for c in primary_curves(loaded.artifact.curves) for p in c.points})
        readouts = gr.HTML(
            value=None,
            label="Speed",
            html_template=markup.readouts(rows[-1], loaded),
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
        html_template=markup.COMPLETION,
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
        html_template=markup.VISITS,
        js_on_load=_script("visits.js") + "acipVisits.follow(element);",
        apply_default_css=False,
        elem_id="visits",
    )


def _curve_part(rows: list[Row], loaded: Loaded) -> tuple[gr.HTML, gr.Button, gr.Button]:
    curves = loaded.artifact.curves
    measured = gr.HTML(
        value=None,
        label="Measurement",
        html_template=markup.chart(bool(curves)),
        js_on_load="acip.chart(element, props, watch);",
        apply_default_css=False,
        elem_id="chart",
        figure=curve_figure(curves, rows[0].percent),
        corpora=[
            {
                "corpus": c.corpus,
                "title": corpus_title(c.corpus),
                "color": corpus_color(c.corpus),
                "symbol": corpus_symbol(c.corpus),
            }
            for c in primary_curves(curves)
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
            html_template=markup.COMPARISON,
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
            html_template=markup.READING,
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
            html_template=markup.TAKE.format(
                load=markup.literal(loading_code(f"{loaded.elastic.base.name}-at-60", True)),
                use=markup.literal(client_code()),
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


def _pictures_part(kinds: Sequence[str]) -> None:
    """What the cut does and how the artifact was made; nothing is computed, sent or drawn before it is seen."""
    with gr.Accordion("Inside the cut, and how it was made", open=False, elem_id="pictures"):
        gr.HTML(
            html_template=markup.EFFICIENCY,
            js_on_load=_script("efficiency.js") + "acipEfficiency.follow(element);",
            apply_default_css=False,
            elem_id="efficiency",
        )
        kind = gr.Radio(list(kinds), value=kinds[0], label="Layer type", elem_id="layer-type")
        _gallery("score-map", f"score-map.{kinds[0]}")
        _gallery("history", "history")
    kind.input(None, kind, js="(kind) => acipPictures.turn('score-map', `score-map.${kind}`)")


def _gallery(place: str, name: str) -> None:
    gr.HTML(
        html_template=f'<div class="pictures" data-gallery="{markup.literal(name)}"></div>',
        js_on_load="acipPictures.seen(element);",
        apply_default_css=False,
        elem_id=place,
    )


def _method_part() -> None:
    """A drawer beside the slider."""
    gr.HTML(
        html_template=markup.METHOD,
        js_on_load=_script("method.js") + "acipMethod.follow(element); acipPictures.seen(element);",
        apply_default_css=False,
        elem_id="method",
    )


def _script(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
