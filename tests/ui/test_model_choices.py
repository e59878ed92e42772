"""Several models on one page: which are offered, how one makes room for the next, what happens when it cannot."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from pathlib import Path

import pytest
from playwright.sync_api import expect

from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.ui.model_choices import ModelChoice, ModelChoiceError, model_choices
from acip_core.ui.page import build_page
from acip_core.ui.server import PageServer
from tests.support.browser import Newcomer
from tests.support.looks import seen_in_all_looks
from tests.support.ports import free_port
from tests.support.visitor import opened, page_port, running, shown, tiny_loaded, wait_for, wait_state

pytestmark = pytest.mark.long


def titles(*models: str, precomputed: Path) -> list[str]:
    return [choice.title for choice in model_choices(models, precomputed=precomputed).models]


def test_named_models_come_first_then_those_with_an_artifact(tmp_path: Path) -> None:
    for name, source in {"b": "org/b", "a": "org/a", "file": "file.gguf", DEFAULT_MODEL: "anything"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "acip.json").write_text(json.dumps({"source": source}))
    for name, text in {"damaged": "{", "list": "[]", "number": '{"source": 3}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "acip.json").write_text(text)
    assert titles(precomputed=tmp_path) == [DEFAULT_MODEL, "org/a", "org/b"]
    local = ("/my/model", "~/your/model", "./model.gguf")
    shown = ["org/b", "model", "model (2)", "model.gguf", "org/a", DEFAULT_MODEL]
    assert titles("org/b", *local, precomputed=tmp_path) == shown
    assert titles(precomputed=tmp_path / "none") == [DEFAULT_MODEL]
    (first, *_) = model_choices((), ["artifact"], tmp_path).models
    assert first == ModelChoice(DEFAULT_MODEL, DEFAULT_MODEL, "artifact")
    assert model_choices(("a", "b"), ["x"], tmp_path).models[:2] == (
        ModelChoice("a", "a", "x"),
        ModelChoice("b", "b", None),
    )


def test_a_model_is_asked_for_by_its_title() -> None:
    choices = model_choices(("a", "b"), precision="int8")
    first = choices.models[0]
    assert first == ModelChoice("a", "a", None, "int8")
    choices.open(first)

    def ask() -> None:
        with pytest.raises(ModelChoiceError):
            choices.ask("c")  # not offered
        choices.ask("a")  # the current one
        choices.ask("b")

    threading.Timer(0.2, ask).start()
    assert choices.wait() == ModelChoice("b", "b", None, "int8")


def test_what_is_asked_for_as_soon_as_a_page_is_there_is_had_and_what_was_asked_of_the_former_one_is_not() -> None:
    choices = model_choices(("a", "b", "c"))
    choices.open(choices.models[0])
    choices.ask("b")
    choices.open(choices.models[1])
    choices.ask("c")
    assert choices.wait().title == "c"


def test_switches_are_counted_and_those_that_change_nothing_are_not() -> None:
    choices = model_choices(("a", "b"))
    choices.open(choices.models[0])
    for _ in range(100):
        choices.ask("a")
    for _ in range(5):
        choices.ask("b")
    assert choices.wait().title == "b"
    with pytest.raises(ModelChoiceError, match=r"try again in \d+ seconds"):
        choices.ask("b")


def test_where_visitors_may_not_switch_there_is_nothing_to_call() -> None:
    choices = model_choices(("a", "b"))
    asks = {True: 0, False: 0}
    for may in asks:
        page, _ = build_page(tiny_loaded(), choices if may else None, choices.models[0])
        config = page.get_config_file()
        asks[may] = sum(1 for function in page.fns.values() if function.name == "ask")
        assert any(c["props"].get("elem_id") == "model" for c in config["components"]) == may
    assert asks == {True: 1, False: 0}


@pytest.mark.parametrize(("models", "artifacts"), [((), ["x", "y"]), (("a",), ["x", "y"])])
def test_more_artifacts_than_models(models: tuple[str, ...], artifacts: list[str]) -> None:
    with pytest.raises(ModelChoiceError, match="a model for each"):
        model_choices(models, artifacts)


def test_a_closed_page_lets_go_of_its_model() -> None:
    loaded = tiny_loaded()
    model = weakref.ref(loaded.elastic.model)
    with PageServer("127.0.0.1", free_port()) as server:
        handlers = shown(server, loaded)
        assert handlers.model.galleries.made("method")
        server.withdraw()
        del loaded, handlers
        gc.collect()
        assert model() is None


@pytest.mark.browser
def test_switching_on_the_page(newcomer: Newcomer, app_folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, artifact = app_folders
    second = tmp_path / "second"
    second.symlink_to(model)
    others = (str(second), "--artifact", str(artifact), "nobody/nothing")
    with page_port() as port, running(app_folders, port, *others):
        wait_for(port)
        page = opened(newcomer(), f"http://localhost:{port}/", [])
        wait_state(page, "done", 100)
        page.fill("#prompt textarea", "A prompt that stays")
        page.click("#run")
        wait_state(page, "done", 100)
        chosen = page.locator("#model input")
        expect(chosen).to_have_value(model.name)
        asked = page.locator("#switch-asked")
        expect(asked).to_be_hidden()

        def switch(title: str) -> None:
            chosen.click()
            page.get_by_role("option", name=title, exact=True).click()
            expect(asked).to_contain_text(f"switches to {title}")
            state = page.evaluate("fetch('acip/state').then((answer) => answer.json())")
            page.route("**/acip/state", lambda route: route.fulfill(json=state))  # until the words were seen
            page.click("#switch-yes")
            expect(page.locator("#header .note")).to_have_text("Switching …")
            page.unroute("**/acip/state")

        chosen.click()
        page.get_by_role("option", name="second", exact=True).click()
        seen_in_all_looks(page, "#model", "#switch-status", "#switch-yes", "#switch-no")
        page.click("#switch-no")
        expect(asked).to_be_hidden()
        expect(chosen).to_have_value(model.name)
        switch("second")
        expect(page.locator("#header .note")).to_have_count(0)
        expect(chosen).to_have_value("second")
        wait_state(page, "done", 100)
        expect(page.locator("#completion .prompt")).to_have_text("A prompt that stays")
        switch("nobody/nothing")
        expect(page.locator("#header .note")).to_contain_text("nobody/nothing could not be opened")
        seen_in_all_looks(page, "#model", "#header .note")
        expect(chosen).to_have_value("second")
        wait_state(page, "done", 100)
        page.close()
