"""The page's components, one function for each of its parts; they are placed where the function is called.

What they do within the browser is in `assets/js`, what events run on the server in `page`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..artifacts.loading import Loaded
from ..figures.size_table import Row
from ..model.base_model import DEFAULT_MODEL, embedded_gguf
from ..model.tracks import LARGEST_PERCENT, Track
from . import markup, scripts
from .comparison_job import MOST_COLUMNS, comparable
from .examples import Examples
from .gradio_import import Dependency, gr
from .knowledge import KnowledgeStrip
from .model_choices import ModelChoice, ModelChoiceError, ModelChoices
from .names import shown_name
from .snippets import client_code, usage

_KINDS = "q, k, v and o look back at the text before; gate, up and down work on each word"
_LENGTH_INFO = "most tokens to write: words and parts of words"
_PENALTY_INFO = "makes what was said already less likely; 1 is none, {:g} wrote the prepared texts"


def switch_part(choices: ModelChoices, current: ModelChoice) -> None:
    """The choice of another model, where visitors may switch."""
    with gr.Row(elem_id="switch"):
        model = gr.Dropdown(
            [choice.title for choice in choices.models],
            value=current.title,
            label="Model",
            info="One at a time: everybody on this page gets the one you choose.",
            elem_id="model",
            min_width=240,
        )
    with gr.Row(elem_id="switch-asked"):
        status = markup.part("switch", model=current.title)
        gr.HTML(status, apply_default_css=False, elem_id="switch-status", js_on_load=None)
        switch = gr.Button("Switch", elem_id="switch-yes", size="md", scale=0, min_width=110)
        keep = gr.Button("Keep this one", elem_id="switch-no", size="md", scale=0, min_width=140)
    model.input(None, model, js=scripts.calling("choose"))
    keep.click(None, None, model, js=scripts.calling("stay"))
    switch.click(
        _switch(choices), model, preprocess=False, show_progress="hidden", queue=False, api_visibility="private"
    ).success(None, js=scripts.calling("leave"))


def _switch(choices: ModelChoices) -> Callable[[Any], None]:
    def ask(title: Any) -> None:
        try:
            choices.ask(title)
        except ModelChoiceError as error:
            raise gr.Error(str(error), title="Not switched", print_exception=False) from None

    return ask


def prompt_part(examples: Examples) -> tuple[gr.Textbox, Dependency, gr.Button, gr.Button]:
    """The prompt, what happens after one was picked, and the buttons that run and stop it."""
    with gr.Row(elem_id="ask"):
        prompt = gr.Textbox(
            value=examples.prompts[0],
            label="Prompt",
            lines=1,
            max_lines=4,  # a longer one scrolls: the slider stays on the first screen
            elem_id="prompt",
            info=None,
            placeholder="Type the beginning of a text",
            scale=6,
        )
        run = gr.Button("Complete", variant="primary", elem_id="run", size="md", scale=0, min_width=110)
        stop = gr.Button("Stop", variant="secondary", elem_id="stop", size="md", scale=0, min_width=70)
    samples = [[text] for text in examples.prompts]
    shown = gr.Dataset(label="Try one of these", components=[prompt], samples=samples, elem_id="examples")
    picked = shown.click(None, shown, prompt, js=scripts.calling("example"))
    return prompt, picked, run, stop


def size_part(rows: list[Row], loaded: Loaded, opening: float) -> tuple[gr.Slider, gr.Textbox, gr.HTML, gr.HTML]:
    """The slider, what it may spend, and what its size means; the field of the mode is filled in by the scripts.

    Args:
        opening: percentage that it starts with.
    """
    first = next(row for row in rows if row.percent == opening)
    with gr.Group(elem_id="size-group"):
        percent = gr.Slider(
            rows[0].percent,
            LARGEST_PERCENT,
            value=opening,
            step=1,
            label="Size, % of the original",
            elem_id="size",
            buttons=[],
        )
        readouts = _drawn("readouts", "readouts", markup.readouts(first, loaded), label="Speed")
        spend = _drawn("spend", "spend", markup.part("spend"), label="What may be spent")
    mode = gr.Textbox("", label="What may be spent: directions, bits or both", visible=False)
    return percent, mode, spend, readouts


def completion_part(examples: Examples, loaded: Loaded) -> gr.HTML:
    """The original's text and that of the slider's size; both are there before anything runs."""
    return _drawn("completion", "completion", markup.completion(examples, loaded), label="Completion")


def knowledge_part(strip: KnowledgeStrip, track: Track) -> None:
    """What the size under the slider still knows; nothing where nobody asked.

    Args:
        track: that the page opens with.
    """
    facts, known = strip.facts(), strip.known(track)
    if facts is None or known is None:
        return
    flags = known["flags"][track.percents.index(strip.opening(track))]
    _drawn("knowledge", "knowledge", markup.knowledge(facts, flags))


def visits_part() -> None:
    """Sizes that the visitor has seen."""
    _drawn("visits", "visits", markup.part("visits"))


def curve_part(loaded: Loaded) -> tuple[gr.HTML, gr.Button, gr.Button]:
    """The chart, and the buttons that measure and stop."""
    measured = _drawn(
        "chart", "chart", markup.part("chart", measured=bool(loaded.artifact.curves)), label="Measurement"
    )
    with gr.Row(elem_id="measure-actions"):
        measure = gr.Button("Measure this size", elem_id="measure", size="md", scale=4)
        stop = gr.Button("Stop measuring", elem_id="stop-measuring", size="md", scale=2, min_width=120)
    return measured, measure, stop


def compare_part(track: Track) -> tuple[gr.Dropdown, gr.HTML, gr.Button, gr.Button]:
    """Sizes side by side: which, their texts, and the buttons that run and stop."""
    with gr.Column(elem_id="compare-view"):
        with gr.Row(elem_id="compare-actions"):
            sizes = gr.Dropdown(
                comparable(track),
                value=track.compared,
                multiselect=True,
                max_choices=MOST_COLUMNS,
                label="Side by side at these sizes",
                elem_id="compare-sizes",
                scale=6,
            )
            compare = gr.Button("Compare", variant="primary", elem_id="compare", size="md", scale=1, min_width=120)
            stop = gr.Button("Stop comparing", elem_id="stop-comparing", size="md", scale=1, min_width=140)
        compared = _drawn("comparison", "comparison", markup.part("comparison"), label="Comparison")
    return sizes, compared, compare, stop


def reading_part() -> tuple[gr.Textbox, gr.HTML, gr.Button, gr.Button]:
    """A text of the visitor's own: its box, what sizes forget of it, and the buttons that read and stop."""
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
        read_out = _drawn("read-out", "reading", markup.part("reading"), label="Your text")
    return own, read_out, read, stop


def take_part(loaded: Loaded) -> tuple[gr.HTML, gr.Button, gr.Button]:
    """Closed until somebody asks; the addresses in its code are the page's own."""
    with gr.Accordion("Take it away", open=False, elem_id="take"):
        with gr.Row(elem_id="take-actions"):
            export = gr.Button("Export this size", variant="primary", elem_id="export", size="md", scale=1)
            stop = gr.Button("Stop exporting", elem_id="stop-exporting", size="md", scale=1)
        exported = _drawn(
            "exported",
            "exported",
            markup.part(
                "export",
                usage=usage(_named(loaded)),
                client=client_code(),
            ),
            label="Export",
        )
    return exported, export, stop


def _named(loaded: Loaded) -> str:
    """What a command calls the model by."""
    embedded = embedded_gguf()
    source = loaded.elastic.base.source
    return DEFAULT_MODEL if embedded is not None and source == embedded.stem else shown_name(source)


def advanced_part(loaded: Loaded, examples: Examples) -> tuple[list[gr.components.Component], gr.Slider]:
    """Settings of a text in the order of the API, and the repetition penalty, which came last."""
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        with gr.Row():
            temperature = gr.Slider(
                0, 2, value=0, step=0.05, label="Temperature", info="0 picks the likeliest token", buttons=[]
            )
            top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info="keeps the likeliest tokens", buttons=[])
        with gr.Row():
            length = gr.Slider(8, 512, value=examples.new_tokens, step=8, label="Length", info=_LENGTH_INFO, buttons=[])
            seed = gr.Number(0, precision=0, label="Seed", info="same seed, same text", elem_id="seed")
        penalty = gr.Slider(
            1, 2, value=examples.repetition_penalty, step=0.05, label="Repetition penalty",
            info=_PENALTY_INFO.format(examples.repetition_penalty), buttons=[],
        )  # fmt: skip
        chat = gr.Checkbox(
            False,
            label="Use the chat template",
            info="answer the prompt instead of continuing it",
            visible=bool(loaded.elastic.tokenizer.chat_template),
        )
    return [temperature, top_p, seed, length, chat], penalty


def pictures_part(kinds: Sequence[str]) -> None:
    """What the cut does and how the artifact was made; nothing is computed, sent or drawn before it is seen."""
    with gr.Accordion("Inside the cut, and how it was made", open=False, elem_id="pictures"):
        _drawn("efficiency", "efficiency", markup.part("efficiency"))
        _gallery("bytes", "bytes.both")
        kind = gr.Radio(list(kinds), value=kinds[0], label="Layer type", elem_id="layer-type", info=_KINDS)
        _gallery("score-map", f"score-map.{kinds[0]}")
        _gallery("history", "history")
    kind.input(None, kind, js=scripts.calling("turn"))


def _gallery(place: str, name: str) -> None:
    gr.HTML(
        html_template=markup.part("gallery", name=name),
        js_on_load=scripts.mounting("pictures"),
        apply_default_css=False,
        elem_id=place,
    )


def method_part() -> None:
    """A drawer beside the slider."""
    _drawn("method", "method", markup.part("method"))


def _drawn(elem_id: str, script: str, template: str, label: str | None = None) -> gr.HTML:
    """A part that the function `script` of `assets/js/main.js` draws, and draws anew with every message."""
    return gr.HTML(
        label=label,
        html_template=template,
        js_on_load=scripts.mounting(script),
        apply_default_css=False,
        elem_id=elem_id,
    )
