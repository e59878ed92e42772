"""The page's server side without a browser: what is left behind, what is logged, what is open to strangers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from gradio_client import Client

from acip_core.generation import engine as generate
from acip_core.generation.engine import Engine
from acip_core.generation.tokens import Token
from acip_core.ui import messages
from acip_core.ui.handlers import Handlers
from acip_core.ui.visitors import Visitors
from tests.support import patient
from tests.support.visitor import REQUEST, SETTINGS, SLOW, served, tiny_loaded


@pytest.fixture
def handlers() -> Handlers:
    return Handlers(tiny_loaded())


@pytest.mark.parametrize("messages", [1, 2, 3])
@pytest.mark.parametrize("known", [True, False], ids=["leaving is noticed", "leaving came before"])
def test_an_abandoned_run_leaves_nothing_behind(handlers: Handlers, messages: int, known: bool) -> None:
    runs = [handlers.complete("prompt", 100, *SETTINGS, REQUEST), handlers.measure(100, REQUEST)]
    for run in runs:
        next(run)
    for _ in range(messages - 1):
        next(runs[0])
    if known:
        handlers.leave(REQUEST)
    for run in runs:
        run.close()  # type: ignore[attr-defined]
    assert handlers.visitors.count == 0


def test_a_newer_run_ends_the_former(handlers: Handlers) -> None:
    former = handlers.complete("prompt", 100, *SETTINGS, REQUEST)
    started = next(former)["run"]
    newer = handlers.complete("prompt", 50, *SETTINGS, REQUEST)
    assert next(newer)["run"] > started
    assert list(former) == []
    assert [message["percent"] for message in newer][-1] == 50


@pytest.mark.filterwarnings("ignore:Something went wrong")
def test_a_mistake_of_ours_is_one_sentence_and_the_log_has_the_rest(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Iterator[dict[int, Token]]:
        yield {0: Token("half", 1, 3, 3)}
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Engine, "compare", broken)
    last = list(handlers.complete("prompt", 100, *SETTINGS, REQUEST))[-1]
    assert last["state"] == "error" and "kernel" not in last["status"]
    assert "no such kernel" in caplog.text
    assert handlers.visitors.count == 0


def test_programs_get_what_the_page_gets() -> None:
    with served(tiny_loaded()) as (address, handlers):
        client = Client(address, verbose=False)
        described = client.view_api(return_format="dict")["named_endpoints"]
        assert described.keys() == {"/complete", "/compare", "/measure", "/speed", "/read", "/export"} and all(
            e["description"] for e in described.values()
        )
        messages = list(client.submit("Hello", 60, *SETTINGS, api_name="/complete"))
        assert [message["state"] for message in messages][-1] == "done"
        same = list(handlers.complete("Hello", 60, *SETTINGS, REQUEST))[-1]
        assert messages[-1]["text"] == same["text"] != ""
        assert client.predict(" ", 60, *SETTINGS, api_name="/complete")["state"] == "error"


def test_sizes_are_compared_in_step() -> None:
    with served(tiny_loaded()) as (address, handlers):
        client = Client(address, verbose=False)
        messages = list(client.submit("Hello", [60, 100, 80, 60], *SETTINGS, api_name="/compare"))
        assert all(len({len(c["tokens"]) for c in m["columns"] if not c["finish"]}) <= 1 for m in messages)
        last = messages[-1]
        assert last["state"] == "done" and [column["percent"] for column in last["columns"]] == [100, 80, 60]
        for column in last["columns"]:
            alone = list(handlers.complete("Hello", column["percent"], *SETTINGS, REQUEST))[-1]["text"]
            assert "".join(text for text, _ in column["tokens"]) == alone
            assert all(0 <= probability <= 1 for _, probability in column["tokens"])
        full, *others = last["columns"]
        assert full["parted"] is None and full["equal"] == 1
        for column in others:
            same = [a[0] == b[0] for a, b in zip(column["tokens"], full["tokens"], strict=False)]
            assert column["parted"] == (same.index(False) if False in same else None)


@pytest.mark.parametrize("percents", [[], None, [60], [60, 60], [100, 90, 80, 70, 60, 50]])
def test_two_to_five_sizes_are_compared(handlers: Handlers, percents: list[int] | None) -> None:
    with pytest.warns(UserWarning, match="two to 5 different sizes"):
        (message,) = handlers.compare("Hello", percents, *SETTINGS, REQUEST)  # type: ignore[arg-type]
    assert message["state"] == "error" and handlers.visitors.count == 0


def test_a_comparison_without_the_full_size_is_still_judged_by_it(handlers: Handlers) -> None:
    last = list(handlers.compare("Hello", [80, 60], *SETTINGS, REQUEST))[-1]
    with_full_model_probabilities = list(handlers.compare("Hello", [100, 80, 60], *SETTINGS, REQUEST))[-1]
    assert last["columns"] == with_full_model_probabilities["columns"][1:]


def test_a_comparison_can_be_stopped(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, forward = handlers.model.engine, handlers.model.engine.forward
    monkeypatch.setattr(engine, "forward", lambda *given, **named: time.sleep(SLOW) or forward(*given, **named))
    messages = handlers.compare("Hello", [80, 60], 0.0, 1.0, 0, 200, False, REQUEST)
    seen = [next(messages) for _ in range(5)]
    handlers.stop_comparing(REQUEST)
    last = [*seen, *messages][-1]
    assert last["state"] == "stopped" and 0 < len(last["columns"][0]["tokens"]) < 200


def test_many_visitors_get_the_texts_they_get_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_ACTIVE", 3)
    requests = [(prompt, percent) for prompt in ("Hello", "Once upon a time") for percent in (100, 70, 40)]
    with served(tiny_loaded()) as (address, handlers):
        alone = Client(address, verbose=False)
        expected = {r: alone.predict(*r, *SETTINGS, api_name="/complete")["text"] for r in requests}
        assert len(set(expected.values())) == len(requests)

        def visit(first: int) -> list[bool]:
            client, right = Client(address, verbose=False), []
            for i in range(first, first + 3):
                next(client.submit(*requests[i % 5], *SETTINGS, api_name="/complete"))  # begun, then dragged past
                request = requests[i % len(requests)]
                try:
                    last = client.predict(*request, *SETTINGS, api_name="/complete")
                except (
                    CancelledError
                ):  # the client's stream, closing after the first, took a request sent just then along
                    last = client.predict(*request, *SETTINGS, api_name="/complete")
                right.append(last["text"] == expected[request])
            return right

        with ThreadPoolExecutor(8) as visitors:
            assert all(right for answers in visitors.map(visit, range(8)) for right in answers)
        assert handlers.visitors.count == 0


def test_nothing_else_is_open_and_nothing_past_the_queue() -> None:
    with served(tiny_loaded()) as (address, handlers), patient.Client(base_url=address) as client:
        info = client.get("gradio_api/info").json()
        assert (
            info["named_endpoints"].keys() == {"/complete", "/compare", "/measure", "/speed", "/read", "/export"}
            and info["unnamed_endpoints"] == {}
        )
        call = {"data": ["prompt", 100, *SETTINGS], "session_hash": "stranger"}
        assert client.post("gradio_api/run/complete", json=call).status_code == 404
        assert client.post("gradio_api/upload", files={"files": b"some bytes"}).status_code == 404
        assert client.get("monitoring/summary").status_code == 404
        assert client.get("openapi.json").status_code == 404
        assert handlers.visitors.count == 0


def sent_at_once(address: str, calls: list[dict[str, Any]]) -> list[str]:
    """Ids of the events of calls that follow each other on connections of their own without waiting for an answer."""
    url = httpx.URL(address)
    with ExitStack() as stack:
        streams = [stack.enter_context(socket.create_connection((url.host, url.port), 60)) for _ in calls]
        for stream, call in zip(streams, calls, strict=True):
            body = json.dumps(call)
            head = f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: {url.host}\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            stream.sendall((head + body).encode())
        answers = [b"".join(iter(lambda stream=stream: stream.recv(4096), b"")) for stream in streams]
    return [json.loads(answer.partition(b"\r\n\r\n")[2])["event_id"] for answer in answers]


def test_of_two_requests_the_one_that_arrived_later_wins() -> None:
    with served(tiny_loaded()) as (address, handlers):
        forward = handlers.model.engine.forward
        handlers.model.engine.forward = lambda *rest, **options: (time.sleep(0.002), forward(*rest, **options))[1]

        def race(pair: int) -> str:
            session = f"pair-{pair}"
            asked = [
                {"session_hash": session, "fn_index": complete, "data": ["Hello", p, *SETTINGS, "", 1.0]}
                for p in (90, 60)
            ]
            events, last = sent_at_once(address, asked), {}
            with patient.stream("GET", f"{address}gradio_api/queue/data?session_hash={session}") as stream:
                for line in stream.iter_lines():
                    message = json.loads(line.removeprefix("data:") or "{}")
                    if message.get("msg") == "process_completed":
                        last[message["event_id"]] = message["output"]["data"]
            return last[events[1]][0]["state"] if last[events[1]] and last[events[1]][0] else "lost"

        functions = patient.get(address + "config").json()["dependencies"]
        complete = next(function["id"] for function in functions if function["api_name"] == "complete")
        with ThreadPoolExecutor(4) as visitors:
            assert set(visitors.map(race, range(60))) == {"done"}
        assert handlers.visitors.count == 0


def test_what_arrived_earlier_and_begins_later_does_not_run(handlers: Handlers) -> None:
    visitors = handlers.visitors
    earlier, later, stop, last = (visitors.arrive() for _ in range(4))
    with visitors.running("a", "kind", later) as run:
        with visitors.running("a", "kind", earlier) as late:
            assert late.cancel.is_set() and not visitors.is_newest("a", "kind", late)
        assert visitors.is_newest("a", "kind", run) and not run.cancel.is_set()
        with visitors.running("b", "kind", earlier), visitors.running("a", "other", earlier) as other:
            assert visitors.is_newest("a", "other", other)
    with visitors.running("a", "kind", earlier) as late:  # also when the later one is over
        assert not visitors.is_newest("a", "kind", late)
    visitors.stop("b", "kind", stop)
    with visitors.running("b", "kind", later) as stopped, visitors.running("c", "kind", later):
        assert stopped.cancel.is_set() and visitors.is_newest("b", "kind", stopped)
        with visitors.running("b", "kind", last) as run:
            visitors.stop("b", "kind", stop)
            assert not run.cancel.is_set()
    assert visitors.count == 0


def test_whatever_fails_before_it_runs_leaves_nothing(handlers: Handlers) -> None:
    calls = {
        handlers.complete: ("prompt", object(), *SETTINGS),
        lambda *values: handlers.sweep(REQUEST, *values[:-1]): (["prompt"], 100, *SETTINGS),
        handlers.compare: ("prompt", {1: 2}, *SETTINGS),
        handlers.measure: ("x",),
        handlers.read: (b"text", 100),
        handlers.export: ({},),
    }
    for call, data in calls.items():
        with pytest.warns(UserWarning, match="must be"):
            (message,) = list(call(*data, REQUEST))[-1:]  # type: ignore[operator]
        assert message["state"] == "error" and message["run"] and handlers.visitors.count == 0
        call(*data, REQUEST).close()  # type: ignore[operator]  # before its first step
        assert handlers.visitors.count == 0


def test_a_visitor_whose_run_was_lost_does_not_count_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    visitors = Visitors()
    lost = visitors.running("lost", "kind")
    run = lost.__enter__()
    assert visitors.count == 1
    monkeypatch.setattr("acip_core.ui.visitors._LOST_SECONDS", -1)
    assert visitors.count == 0 and run.cancel.is_set()


@pytest.mark.filterwarnings("ignore")
def test_half_a_surrogate_pair_is_sent_back_as_text() -> None:
    handlers = Handlers(tiny_loaded())
    for setting in range(len(SETTINGS)):
        settings = [*SETTINGS[:setting], "\ud800", *SETTINGS[setting + 1 :]]
        messages = list(handlers.complete("\ud800 Hello", 60, *settings, REQUEST))
        assert messages[-1]["state"] == "error"
        for message in messages:
            json.dumps(message, ensure_ascii=False).encode("utf-8")
    *_, last = handlers.complete("\ud800 Hello", 60, *SETTINGS, REQUEST)
    assert last["state"] == "done" and last["prompt"] == "? Hello"


def test_a_chart_is_told_of_no_more_than_it_can_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(second / 64 for second in range(1000))
    monkeypatch.setattr(messages.time, "monotonic", lambda: next(now))
    assert list(messages.thinned(iter(range(20)))) == [0, 7, 14]
