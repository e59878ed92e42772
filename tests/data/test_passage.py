"""A text of one's own: nothing of it is lost in cutting, and what is told of it is what the model itself says."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
import torch

from acip_core.data.passage import MOST_CHARACTERS, cut_passage
from acip_core.errors import CorpusError
from acip_core.evaluation.perplexity import token_losses
from acip_core.generation.engine import Engine
from acip_core.model.tracks import Track, directions_track
from acip_core.ui import reading_job
from acip_core.ui.handlers import Handlers
from acip_core.ui.reading_job import read_passage, sizes_to_read
from tests.support.tiny import tiny_base
from tests.support.visitor import REQUEST, tiny_loaded

TRACK = directions_track(tiny_loaded().elastic.planner)
TEXT = "A  fox\r\nhas <b>nine</b> lives & 🙂🙂 sees Łódź\t, \udc80 it says. " * 4


@pytest.mark.parametrize("length", [2, 7, 512])
def test_the_pieces_are_the_text_and_the_windows_its_tokens(length: int) -> None:
    tokenizer = tiny_base().tokenizer
    passage = cut_passage(tokenizer, TEXT, length, 10_000)
    text = TEXT.encode("utf-8", "replace").decode()
    assert "".join(passage.pieces) == text and passage.left_out == 0
    rebuilt = torch.cat([passage.windows[0][:1], *(window[1:] for window in passage.windows)]).tolist()
    assert rebuilt == [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]
    assert len(passage.pieces) == len(rebuilt) - 1 == sum(len(window) - 1 for window in passage.windows)
    assert all(2 <= len(window) <= length for window in passage.windows)


def test_what_is_too_long_is_left_out_and_counted() -> None:
    whole = cut_passage(tiny_base().tokenizer, TEXT, 16, 10_000)
    part = cut_passage(tiny_base().tokenizer, TEXT, 16, 20)
    assert part.pieces == whole.pieces[:20] and part.left_out == len(whole.pieces) - 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no text"),
        (" \n", "no text"),
        ("x" * (MOST_CHARACTERS + 1), "200,001 characters"),
        ("PK\3\4\0\0", "zero bytes"),
    ],
)
def test_what_is_no_text_is_refused(text: str | None, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        cut_passage(tiny_base().tokenizer, text, 16, 100)


def test_losses_are_those_of_the_model_at_that_size() -> None:
    elastic = tiny_loaded().elastic
    engine = Engine(elastic)
    passage = cut_passage(elastic.tokenizer, TEXT, 200, 10_000)
    for ratio in (1.0, 0.6):
        plan = elastic.planner.at_ratio(ratio)
        found = torch.cat(list(engine.losses(passage.windows, plan)))
        with elastic.at(plan):
            expected = torch.cat([token_losses(elastic.model, window[None])[0] for window in passage.windows])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_coarse_sizes_come_first() -> None:
    order = sizes_to_read(63, TRACK)
    assert order[:3] == [100, 63, 30] and len(order) == len(set(order)) == 16
    assert set(order[:9]) == {100, 90, 80, 70, 60, 50, 40, 30, 63}
    assert sizes_to_read(100, Track(TRACK.planner, (100,))) == [100]


def test_a_reading_tells_every_token_at_every_size() -> None:
    handlers = Handlers(tiny_loaded())
    messages = list(handlers.read(TEXT, 63, REQUEST))
    last = messages[-1]
    assert last["state"] == "done" and "at 16 sizes" in last["status"] and handlers.visitors.count == 0
    pieces = cut_passage(handlers.model.engine.elastic.tokenizer, TEXT, 512, 10_000).pieces
    assert last["pieces"] == pieces and all(len(size["losses"].split()) == len(pieces) for size in last["sizes"])
    assert [size["percent"] for size in last["sizes"]] == sizes_to_read(63, TRACK)
    for before, after in pairwise(messages):
        assert len(before["sizes"]) <= len(after["sizes"])


def test_a_reading_can_be_stopped_and_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_job.Track, "step", 1)
    handlers = Handlers(tiny_loaded())
    messages = handlers.read(TEXT, 100, REQUEST)
    seen = [next(messages) for _ in range(2)]
    handlers.stop_reading(REQUEST)
    last = [*seen, *messages][-1]
    assert last["state"] == "stopped" and "Stopped" in last["status"] and 1 <= len(last["sizes"]) < 20


def test_a_cancelled_reading_has_no_half_window() -> None:
    elastic = tiny_loaded().elastic
    passage = cut_passage(elastic.tokenizer, TEXT, 16, 10_000)
    cancel = threading.Event()
    steps = read_passage(Engine(elastic), passage, 60, directions_track(elastic.planner), cancel)
    first = next(steps)
    cancel.set()
    assert list(steps) == [] and len(first[-1]["losses"].split()) == 15


@pytest.mark.filterwarnings("ignore")
def test_a_refused_text_is_one_sentence() -> None:
    handlers = Handlers(tiny_loaded())
    last = list(handlers.read(" ", 60, REQUEST))[-1]
    assert last["state"] == "error" and last["status"].startswith("There is no text")
