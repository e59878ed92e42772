"""What may be spent, on the server: one visitor's setting, codes that are made meanwhile, and what can go wrong."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from gradio_client import Client

from acip_core.artifacts.loading import Loaded, install_coding
from acip_core.errors import ModelError
from acip_core.generation.engine import SamplingConfig
from acip_core.model.size_planner import BITS, BOTH, DIRECTIONS, MODES
from acip_core.progress import Progress, Steps
from acip_core.ui import modes as modes_module
from acip_core.ui.handlers import Handlers
from acip_core.ui.preparation import Preparation
from acip_core.ui.server import PageServer
from tests.support import patient
from tests.support.coded import opened_with_codes, with_coding
from tests.support.ports import free_port
from tests.support.visitor import REQUEST, SETTINGS, served, shown, tiny_loaded


@pytest.fixture
def handlers() -> Handlers:
    made = Handlers(with_coding(tiny_loaded()))
    made.model.modes.preparation.run()
    made.model.engine.ends = frozenset()
    return made


def held(gate: threading.Event, then: Any = None) -> Any:
    """An installation that waits for a gate, and then fails with an error or goes on with another one."""

    def install(loaded: Loaded) -> Steps[bool]:
        for done in range(1, 5):
            yield Progress("making codes", done, 8)
        gate.wait(600)  # a test that fails before lets it go on
        if isinstance(then, Exception):
            raise then
        return (yield from then(loaded)) if then else True

    return install


def test_what_visitors_are_told_of_modes_is_made_before_they_ask(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes_module, "byte_rows", None)
    assert set(handlers.model.modes.told()["modes"]) == {BOTH, BITS}


@pytest.mark.parametrize("mode", MODES)
def test_a_request_spends_what_it_says(handlers: Handlers, mode: str) -> None:
    last = list(handlers.complete("Hello", 40, *SETTINGS, REQUEST, mode))[-1]
    assert last["state"] == "done" and last["mode"] == mode and last["percent"] == 40
    engine, planner = handlers.model.engine, handlers.model.engine.elastic.planners[mode]
    tokens = engine.stream("Hello", planner.at_ratio(0.4), SamplingConfig(max_new_tokens=16))
    assert last["text"] == "".join(token.text for token in tokens)


def test_the_best_mode_is_the_default_where_there_is_one(handlers: Handlers) -> None:
    assert list(handlers.complete("Hello", 40, *SETTINGS, REQUEST))[-1]["mode"] == BOTH
    other = Handlers(tiny_loaded())
    assert list(other.complete("Hello", 40, *SETTINGS, REQUEST))[-1]["mode"] == DIRECTIONS


def test_every_function_has_modes(handlers: Handlers) -> None:
    compared = list(handlers.compare("Hello", [100, 40, 30, 24], *SETTINGS, REQUEST, BITS))[-1]
    assert [column["percent"] for column in compared["columns"]] == [100, 40, 30, 24] and compared["mode"] == BITS
    read = list(handlers.read("A fox sees nine dogs.", 24.3, REQUEST, BOTH))[-1]
    assert read["state"] == "done" and {100, 24.3} <= {size["percent"] for size in read["sizes"]}
    speeds = list(handlers.speed(REQUEST, BITS))[-1]["speeds"]
    assert "100" in speeds and all(value > 0 for value in speeds.values())
    sweep = list(handlers.sweep(REQUEST, "Hello", 30, *SETTINGS, BOTH))
    found = {percent for message in sweep for percent, _, done in message["ready"] if done}
    assert 30 in found and 100 in found and len(found) > 4
    directions = list(handlers.sweep(REQUEST, "Hello", 30, *SETTINGS, DIRECTIONS))
    assert directions[0]["key"] != sweep[0]["key"] and not directions[0]["ready"]


@pytest.mark.parametrize("mode", [BITS, BOTH])
def test_an_export_is_what_is_on_the_slider(handlers: Handlers, mode: str) -> None:
    last = list(handlers.export(40, REQUEST, mode))[-1]
    plan = handlers.model.engine.elastic.planners[mode].at_ratio(0.4)
    assert last["state"] == "done" and last["name"].endswith("MB" if mode == BOTH else "MB-bits")
    assert f"{plan.bytes / 1e6:.3g}MB" in last["name"] and last["bytes"] > plan.bytes


def test_visitors_of_all_modes_share_passes(handlers: Handlers) -> None:
    requests = [(mode, percent) for mode in MODES for percent in (100, 40)]
    alone = {(m, p): list(handlers.complete("Hello", p, *SETTINGS, REQUEST, m))[-1]["text"] for m, p in requests}

    def visit(i: int) -> bool:
        mode, percent = requests[i % len(requests)]
        request = type(REQUEST)(session_hash=f"visitor {i}")
        last = list(handlers.complete("Hello", percent, *SETTINGS, request, mode))[-1]
        return last["text"] == alone[mode, percent]

    with ThreadPoolExecutor(6) as visitors:
        assert all(visitors.map(visit, range(18)))


@pytest.mark.parametrize("mode", ["ranks", 3, ["both"], {"a": 1}, "BOTH"])
def test_another_mode_is_refused_in_a_sentence(handlers: Handlers, mode: Any) -> None:
    with pytest.warns(UserWarning, match="one of directions, bits, both"):
        (last,) = handlers.complete("Hello", 40, *SETTINGS, REQUEST, mode)
    assert last["state"] == "error" and handlers.visitors.count == 0


@pytest.mark.filterwarnings("ignore")
def test_without_operating_points_the_page_says_so() -> None:
    with served(tiny_loaded()) as (address, handlers):
        told = patient.get(address + "acip/modes").json()
        assert told["state"] == "absent" and told["modes"] == {}
        assert "only directions can be spent; `python -m acip_core codes` adds" in told["told"]
        refused = Client(address, verbose=False).predict("Hello", 40, *SETTINGS, BITS, api_name="/complete")
        assert refused["state"] == "error" and "only directions" in refused["status"]
        assert patient.get(address + "acip/pictures/bytes.both").status_code == 404
        assert next(iter(handlers.measure(60, REQUEST)))["mode"] == DIRECTIONS


@pytest.mark.filterwarnings("ignore")
def test_while_codes_are_made_directions_run_and_the_rest_is_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(modes_module, "Preparation", lambda loaded: Preparation(loaded, held(gate, install_coding)))
    with served(with_coding(tiny_loaded())) as (address, handlers):
        preparation = handlers.model.modes.preparation
        while preparation._step.done < 4:
            pass
        told = patient.get(address + "acip/modes").json()
        assert told["state"] == "running" and told["modes"] == {} and "4 of 8" in told["told"]
        assert "Bits can be spent in about" in told["told"]
        assert list(handlers.complete("Hello", 40, *SETTINGS, REQUEST))[-1]["mode"] == DIRECTIONS
        assert list(handlers.complete("Hello", 40, *SETTINGS, REQUEST, BOTH))[-1]["status"] == preparation.told
        gate.set()
        assert preparation._thread is not None
        preparation._thread.join()
        told = patient.get(address + "acip/modes").json()
        assert told["state"] == "ready" and told["told"] == "" and set(told["modes"]) == {BOTH, BITS}
        rows = told["modes"][BOTH]["rows"]
        assert len(rows) == len(handlers.model.modes.directions.percents)
        assert list(handlers.complete("Hello", 40, *SETTINGS, REQUEST))[-1]["mode"] == BOTH
        pictures = patient.get(address + "acip/pictures/bytes.both").json()
        assert pictures[0]["title"] == "Bits held of each weight"
        assert patient.get(address + "acip/pictures/bytes.directions").status_code == 404


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(ModelError("The moments of /home/me/x/layer.bin are damaged."), "layer.bin are damaged"), (KeyError("a"), "log")],
)
def test_codes_that_cannot_be_made_leave_directions(error: Exception, sentence: str) -> None:
    loaded = with_coding(tiny_loaded())
    gate = threading.Event()
    gate.set()
    preparation = Preparation(loaded, held(gate, error))
    preparation.start()
    assert preparation._thread is not None
    preparation._thread.join()
    assert preparation.state == "failed" and sentence in preparation.told and "/home" not in preparation.told
    preparation.start()
    preparation.run()  # nothing more
    assert preparation.state == "failed"


def test_a_quantized_model_has_directions_alone() -> None:
    loaded = replace(with_coding(tiny_loaded()), quantized=object())  # type: ignore[arg-type]
    assert Preparation(loaded).state == "absent" and "precision" in Preparation(loaded).told


def test_closing_while_codes_are_made_ends_within_a_step_and_lets_go_of_the_model() -> None:
    going = threading.Event()

    def endless(loaded: Loaded) -> Iterator[Progress]:
        while True:
            going.set()
            yield Progress("making codes", 1, 1000)

    loaded = with_coding(tiny_loaded())
    model = weakref.ref(loaded.elastic.model)
    with PageServer("127.0.0.1", free_port()) as server:
        for _ in range(2):  # as when the model is switched
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(modes_module, "Preparation", lambda of: Preparation(of, endless))  # type: ignore[arg-type]
                handlers = shown(server, loaded)
            thread = handlers.model.modes.preparation._thread
            assert thread is not None and going.wait(600)
            server.withdraw()
            assert not thread.is_alive()
        del loaded, handlers, thread
        gc.collect()
        assert model() is None


def test_sizes_side_by_side_follow_the_mode() -> None:
    handlers = Handlers(opened_with_codes(tiny_loaded()))
    handlers.model.modes.preparation.run()
    for mode, start, least in ((DIRECTIONS, [100, 80, 60, 40], 30), (BOTH, [100, 40, 30, 24], 15)):
        for wanted in ([], [100], [1e9, None], "100,80", None, [[70], {}]):  # a link may hold anything
            update = handlers.compared(mode, wanted)  # type: ignore[arg-type]
            assert update["value"] == start and update["choices"][-1][1] == least
        assert handlers.compared(mode, [45, 1, 70, "60", None])["value"] == [70, 45]  # type: ignore[list-item]
        assert len(handlers.compared(mode, list(range(100)))["value"]) == 5
