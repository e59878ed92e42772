"""The page's components, one function for each of its parts; they are placed where the function is called.

What they do within the browser is in `assets/js`, what events run on the server in `page`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.events import Dependency

from ..artifacts.completions import EXAMPLES
from ..artifacts.loading import Loaded
from ..figures.size_table import LARGEST_PERCENT, Row
from . import markup, scripts
from .comparison_job import MOST_COLUMNS
from .model_choices import ModelChoice, ModelChoiceError, ModelChoices
from .snippets import client_code, loading_code

_COMPARED = (100, 80, 60, 40)
_PRECISIONS = {
    "full": "full, as the model came",
    "int8": "int8",
    "int4": "int4, leading directions int8",
    "nf4": "nf4, leading directions int8",
    "fp4": "fp4, leading directions int8",
}


def switch_part(choices: ModelChoices, current: ModelChoice) -> None:
    with gr.Row(elem_id="switch"):
        model = gr.Dropdown(
            [choice.title for choice in choices.models],
            value=current.title,
            label="Model",
            info="One at a time: everybody on this page gets the one you choose.",
            elem_id="model",
            visible=len(choices.models) > 1,
            min_width=240,
        )
        precision = gr.Dropdown(
            [(_PRECISIONS[name], name) for name in choices.precisions],
            value=current.precision,
            label="Precision",
            info="Of the compressed layers, for everybody on this page.",
            elem_id="precision",
            min_width=240,
        )
    with gr.Row(elem_id="switch-asked"):
        status = markup.part("switch", model=current.title, precision=current.precision)
        gr.HTML(status, apply_default_css=False, elem_id="switch-status", js_on_load=None)
        switch = gr.Button("Switch", elem_id="switch-yes", size="md", scale=0, min_width=110)
        keep = gr.Button("Keep this one", elem_id="switch-no", size="md", scale=0, min_width=140)
    chosen = [model, precision]
    for part in chosen:
        part.input(None, chosen, js=scripts.calling("choose"))
    keep.click(None, None, chosen, js=scripts.calling("stay"))
    switch.click(
        _switch(choices), chosen, preprocess=False, show_progress="hidden", queue=False, api_visibility="private"
    ).success(None, js=scripts.calling("leave"))


def _switch(choices: ModelChoices) -> Callable[[Any, Any], None]:
    def ask(title: Any, precision: Any) -> None:
        try:
            choices.ask(title, precision)
        except ModelChoiceError as error:
            raise gr.Error(str(error), title="Not switched", print_exception=False) from None

    return ask


def prompt_part() -> tuple[gr.Textbox, Dependency]:
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
    picked = examples.click(None, examples, prompt, js=scripts.calling("example"))
    return prompt, picked


def size_part(rows: list[Row], loaded: Loaded) -> tuple[gr.Slider, gr.HTML]:
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
        readouts = gr.HTML(
            value=None,
            label="Speed",
            html_template=markup.readouts(rows[-1], loaded),
            js_on_load=scripts.mounting("readouts"),
            apply_default_css=False,
            elem_id="readouts",
        )
    return percent, readouts


def completion_part() -> tuple[gr.HTML, gr.Button, gr.Button]:
    completion = gr.HTML(
        value=None,
        label="Completion",
        html_template=markup.part("completion"),
        js_on_load=scripts.mounting("completion"),
        apply_default_css=False,
        elem_id="completion",
    )
    with gr.Row(elem_id="actions"):
        run = gr.Button("Complete", variant="primary", elem_id="run", size="md")
        stop = gr.Button("Stop", variant="secondary", elem_id="stop", size="md")
    return completion, run, stop


def visits_part() -> None:
    gr.HTML(
        html_template=markup.part("visits"),
        js_on_load=scripts.mounting("visits"),
        apply_default_css=False,
        elem_id="visits",
    )


def curve_part(loaded: Loaded) -> tuple[gr.HTML, gr.Button, gr.Button]:
    measured = gr.HTML(
        value=None,
        label="Measurement",
        html_template=markup.part("chart", measured=bool(loaded.artifact.curves)),
        js_on_load=scripts.mounting("chart"),
        apply_default_css=False,
        elem_id="chart",
    )
    with gr.Row(elem_id="measure-actions"):
        measure = gr.Button("Measure this size on held-out text", elem_id="measure", size="md", scale=4)
        stop = gr.Button("Stop measuring", elem_id="stop-measuring", size="md", scale=2, min_width=120)
    return measured, measure, stop


def compare_part(rows: list[Row]) -> tuple[gr.Dropdown, gr.HTML, gr.Button, gr.Button]:
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
            html_template=markup.part("comparison"),
            js_on_load=scripts.mounting("comparison"),
            apply_default_css=False,
            elem_id="comparison",
        )
    return sizes, compared, compare, stop


def reading_part() -> tuple[gr.Textbox, gr.HTML, gr.Button, gr.Button]:
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
            html_template=markup.part("reading"),
            js_on_load=scripts.mounting("reading"),
            apply_default_css=False,
            elem_id="read-out",
        )
    return own, read_out, read, stop


def take_part(loaded: Loaded) -> tuple[gr.HTML, gr.Button, gr.Button]:
    """Closed until somebody asks; the addresses in its code are the page's own."""
    with gr.Accordion("Take it away", open=False, elem_id="take"):
        with gr.Row(elem_id="take-actions"):
            export = gr.Button("Export this size", variant="primary", elem_id="export", size="md", scale=1)
            stop = gr.Button("Stop exporting", elem_id="stop-exporting", size="md", scale=1)
        exported = gr.HTML(
            value=None,
            label="Export",
            html_template=markup.part(
                "export", load=loading_code(f"{loaded.elastic.base.name}-at-60", True), use=client_code()
            ),
            js_on_load=scripts.mounting("exported"),
            apply_default_css=False,
            elem_id="exported",
        )
    return exported, export, stop


def advanced_part(loaded: Loaded) -> list[gr.components.Component]:
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


def pictures_part(kinds: Sequence[str]) -> None:
    """What the cut does and how the artifact was made; nothing is computed, sent or drawn before it is seen."""
    with gr.Accordion("Inside the cut, and how it was made", open=False, elem_id="pictures"):
        gr.HTML(
            html_template=markup.part("efficiency"),
            js_on_load=scripts.mounting("efficiency"),
            apply_default_css=False,
            elem_id="efficiency",
        )
        kind = gr.Radio(list(kinds), value=kinds[0], label="Layer type", elem_id="layer-type")
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
    gr.HTML(
        html_template=markup.part("method"),
        js_on_load=scripts.mounting("method"),
        apply_default_css=False,
        elem_id="method",
    )
