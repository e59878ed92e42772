"""The page: where its parts stand, and which event runs what. Behaviour within the browser is in `assets/js`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ..artifacts.loading import Loaded
from ..data.passage import MOST_CHARACTERS
from ..evaluation.curves import primary_curves
from ..evaluation.methods import corpus_color, corpus_symbol, corpus_title
from ..figures.byte_chart import source_file_bytes
from ..figures.chart import curve_figure
from ..figures.size_table import Row, size_table
from ..generation.speed import lookup_parameters
from ..model.size_planner import DIRECTIONS
from ..paths import assets_dir
from . import components, markup, scripts
from .document import Document
from .examples import Examples, examples_of
from .gradio_import import gr
from .handlers import Handlers
from .model_choices import ModelChoice, ModelChoices
from .modes import Modes
from .names import known_name, shown_name
from .snippets import ADDRESS

TITLE = "One model, every size"
ASSETS = assets_dir()
_CONCURRENT_RUNS = 50  # more than the model admits and lets wait in line, so that it says who is ahead


def build_page(
    loaded: Loaded, choices: ModelChoices | None = None, current: ModelChoice | None = None
) -> tuple[gr.Blocks, Handlers]:
    """The page for a loaded model, and its server side.

    Args:
        choices: the models that visitors can switch to; none where they cannot.
        current: the loaded one among them.
    """
    handlers = Handlers(loaded)
    lookups = lookup_parameters(loaded.elastic.base.model)
    modes = handlers.model.modes
    opening = modes.knowledge.opening(modes.directions)
    examples = examples_of(loaded.completions, DIRECTIONS, opening)
    rows = size_table(loaded.elastic.planner, loaded.artifact.curves, lookups)
    chosen = current if choices and current and len(choices.models) > 1 else None
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        head = scripts.head({"version": handlers.version, **_values(rows, loaded, examples), **_known(modes)})
        handlers.document = _document(loaded, modes, head, chosen.title if chosen else "")
        gr.HTML(markup.header(TITLE, loaded), apply_default_css=False, elem_id="header", js_on_load=None)
        if choices and chosen:
            components.switch_part(choices, chosen)
        with gr.Row(elem_id="main"):
            with gr.Column(scale=6, min_width=340):
                prompt, picked, run, stop = components.prompt_part(examples)
                completion = components.completion_part(examples, loaded)
                components.knowledge_part(modes.knowledge, modes.directions)
                percent, mode, spend, readouts = components.size_part(rows, loaded, opening)
            with gr.Column(scale=5, min_width=340):
                measured, measure, stop_measuring = components.curve_part(loaded)
                components.visits_part()
                settings, penalty = components.advanced_part(loaded, examples)
        sizes, compared, compare, stop_comparing = components.compare_part(modes.directions)
        own, read_out, read, stop_reading = components.reading_part()
        exported, export, stop_exporting = components.take_part(loaded)
        components.pictures_part(handlers.model.galleries.kinds)
        components.method_part()
        asked = [prompt, percent, *settings, mode, penalty]
        _stream_texts(page, handlers, asked, (run.click, completion.release, prompt.submit, picked.then), completion)
        compared_with = [prompt, sizes, *settings, mode, penalty]
        side_by_side: dict[str, Any] = {"js": scripts.calling("sideBySide"), "api_visibility": "private"}
        _stream(compare.click, handlers.compare, compared_with, compared, "completion", **side_by_side)
        spend.input(
            handlers.compared, [mode, sizes], sizes, preprocess=False, queue=False, show_progress="hidden",
            api_visibility="private", js=scripts.calling("comparedIn"),
        )  # fmt: skip
        at_size = {"js": scripts.calling("atSize")}
        spent = [percent, mode]
        _stream(measure.click, handlers.measure, spent, measured, "measurement", api_name="measure", **at_size)
        _stream(read.click, handlers.read, [own, *spent], read_out, "measurement", api_name="read", **at_size)
        _stream(export.click, handlers.export, spent, exported, "export", api_name="export", **at_size)
        once: dict[str, Any] = {"trigger_mode": "once", "api_name": "speed", "js": scripts.calling("inMode")}
        _stream(readouts.tick, handlers.speed, mode, readouts, "measurement", **once)
        _end(stop, handlers.stop)
        _end(stop_comparing, handlers.stop_comparing)
        _end(stop_measuring, handlers.stop_measuring)
        _end(stop_reading, handlers.stop_reading)
        _end(stop_exporting, handlers.stop_exporting)
        page.unload(handlers.leave)
    return page, handlers


def _stream_texts(
    page: gr.Blocks, handlers: Handlers, asked: list[Any], starts: Sequence[Any], completion: gr.HTML
) -> None:
    """Write at every start, which are Gradio's event listeners, and when the page has what its address asks for."""
    private: dict[str, Any] = {"api_visibility": "private"}
    restored = page.load(None, asked, asked, js=scripts.calling("open"), show_progress="hidden", **private)
    for event in (*starts, restored.then):
        _stream(event, handlers.sweep, asked, completion, "completion", js=scripts.calling("write"), **private)
    for public in (handlers.complete, handlers.compare):  # with defaults of their own for what came last
        gr.api(public, concurrency_limit=_CONCURRENT_RUNS, concurrency_id="completion")


def _stream(
    event: Callable[..., Any], handler: Callable[..., Any], inputs: Any, output: gr.HTML, group: str, **options: Any
) -> None:
    """Run a handler at an event, and give each of its messages to a component.

    Args:
        group: handlers of one group share their places.
    """
    event(
        handler,
        inputs,
        output,
        **{"trigger_mode": "multiple", **options},  # a newer run replaces the former on the server
        preprocess=False,  # the handlers check what comes, and say what is wrong with it
        show_progress="hidden",
        concurrency_limit=_CONCURRENT_RUNS,
        concurrency_id=group,
    )


def _end(button: gr.Button, handler: Callable[..., Any]) -> None:
    """Have a button end what its handler ends, past the queue."""
    button.click(handler, queue=False, show_progress="hidden", api_visibility="private")


def _values(rows: list[Row], loaded: Loaded, examples: Examples) -> dict[str, Any]:
    """All that the scripts are given: `PageData` in `assets/js/types.d.ts`."""
    curves = loaded.artifact.curves
    own = primary_curves(curves)
    planner, source = loaded.elastic.planner, source_file_bytes(loaded.elastic.base)

    def figure(others: bool) -> dict[str, Any]:
        return curve_figure(curves, round(rows[0].percent), planner.base_bytes, source, others)

    return {
        "model": shown_name(loaded.elastic.base.source),
        "name": known_name(loaded.elastic.base),
        "rows": [asdict(row) for row in rows],
        "measured": sorted({round(100 * point.ratio) for curve in own for point in curve.points}),
        "corpora": [
            {
                "corpus": curve.corpus,
                "title": corpus_title(curve.corpus),
                "color": corpus_color(curve.corpus),
                "symbol": corpus_symbol(curve.corpus),
            }
            for curve in own
        ],
        "figure": figure(others=False),
        "others": figure(others=True) if len(own) < len(curves) else None,
        "examples": examples.prompts,
        "characters": MOST_CHARACTERS,
        "chat": bool(loaded.elastic.tokenizer.chat_template),
        "address": ADDRESS,
    }


def _document(loaded: Loaded, modes: Modes, head: str, model: str) -> Document:
    """Holds nothing of the model, for Gradio keeps closed pages."""
    made, published, note = loaded.completions, loaded.elastic.planner.base_bytes, markup.model_note(loaded)
    states = ("waiting", "running", "ready", "absent", "failed")
    claims = {state: markup.claim(loaded, "bits" if state == "ready" else DIRECTIONS, state) for state in states}

    def first() -> str:
        track = modes.track()
        examples = examples_of(made, track.mode, modes.knowledge.opening(track))
        return markup.first_paint(TITLE, claims[modes.preparation.state], note, model, examples, published)

    never = modes.preparation.state == "absent"
    return Document(TITLE, claims["absent" if never else "ready"], head, first)


def _known(modes: Modes) -> dict[str, Any]:
    """What the scripts are given of facts, beside `_values`."""
    strip, track = modes.knowledge, modes.directions
    return {"facts": strip.facts(), "known": strip.known(track), "opening": strip.opening(track)}
