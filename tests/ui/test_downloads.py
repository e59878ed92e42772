"""Taking a model along from the page: the file, its address, its end, and the code that is shown beside it."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gradio_client import Client
from playwright.sync_api import expect
from transformers import AutoModelForCausalLM

from acip_core.data.corpus import documents
from acip_core.ui import downloads
from acip_core.ui.downloads import Downloads, File
from acip_core.ui.handlers import Handlers
from acip_core.ui.snippets import ADDRESS, client_code
from tests.support import patient
from tests.support.browser import Newcomer
from tests.support.visitor import SLIDER, opened, served, tiny_loaded

REQUEST = SimpleNamespace(session_hash="someone")


@pytest.fixture
def handlers() -> Handlers:
    return Handlers(tiny_loaded())


def kept(cache: Path) -> list[Path]:
    return [path for path in (cache / "models").rglob("*") if path.is_file() and path.name != ".lock"]


def test_the_file_is_the_model_at_that_size(tmp_path: Path) -> None:
    with served(tiny_loaded()) as (address, handlers):
        last = Client(address, verbose=False).predict(70, api_name="/export")
        assert last["state"] == "done" and last["name"] in last["code"]
        answer = patient.get(address + last["address"])
        assert answer.headers["content-type"] == "application/zip" and len(answer.content) == last["bytes"]
        zipfile.ZipFile(io.BytesIO(answer.content)).extractall(tmp_path)
        elastic = handlers.model.engine.elastic
        model = AutoModelForCausalLM.from_pretrained(tmp_path / last["name"], trust_remote_code=True)
        ids = torch.arange(12)[None]
        with torch.inference_mode(), elastic.at(elastic.planner.at_ratio(0.7)):
            torch.testing.assert_close(model(ids).logits, elastic.model(ids).logits, rtol=1e-4, atol=1e-4)
        for wrong in ("acip/model/guess/x.zip", "acip/model/../x.zip", "acip/model/%2e%2e/x.zip"):
            assert patient.get(address + wrong).status_code == 404


def test_stopping_leaves_nothing(handlers: Handlers, cache: Path) -> None:
    messages = handlers.export(60, REQUEST)
    seen = [next(messages) for _ in range(3)]
    handlers.stop_exporting(REQUEST)
    last = [*seen, *messages][-1]
    assert last["state"] == "stopped" and kept(cache) == [] and handlers.visitors.count == 0


def test_a_newer_export_replaces_the_former(handlers: Handlers, cache: Path) -> None:
    first = handlers.export(60, REQUEST)
    next(first), next(first)
    second = handlers.export(50, REQUEST)
    next(second)  # has begun; the first holds the pen until it notices
    assert [message["state"] for message in first] == []
    assert list(second)[-1]["state"] == "done" and len(kept(cache)) == 1


def test_one_at_a_time(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_PATIENCE", 0)
    first = handlers.export(60, REQUEST)
    next(first), next(first)
    with pytest.warns(UserWarning, match="Somebody else's model is being written"):
        assert list(handlers.export(60, SimpleNamespace(session_hash="another")))[-1]["state"] == "error"
    assert list(first)[-1]["state"] == "done"


def test_a_full_disk_is_one_sentence(handlers: Handlers, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads.zipfile, "ZipFile", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert list(handlers.export(60, REQUEST))[-1]["state"] == "error"
    assert kept(cache) == []
    monkeypatch.undo()
    assert list(handlers.export(60, REQUEST))[-1]["state"] == "done"


def test_no_folder_to_write_to_is_one_sentence(handlers: Handlers, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.warns(UserWarning, match="set ACIP_CACHE to another folder"):
        assert list(handlers.export(60, REQUEST))[-1]["state"] == "error"
    cache.unlink()
    assert list(handlers.export(60, REQUEST))[-1]["state"] == "done"


def written(files: Downloads) -> File:
    *_, file = files.write(files._loaded.elastic.planner.at_ratio(0.6), "model", threading.Event())
    assert isinstance(file, File)
    return file


def test_files_are_kept_for_a_while(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Downloads(tiny_loaded())
    all_of_them = [written(files) for _ in range(5)]
    assert all(file.path.is_file() for file in all_of_them), "whatever others export"
    monkeypatch.setattr(downloads, "_KEPT_SECONDS", 0.3)
    last = written(files)
    end = time.monotonic() + 60
    while last.path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert [file.path.exists() for file in [*all_of_them, last]] == [True] * 5 + [False]
    files.close()
    assert kept(cache) == []


def test_the_oldest_go_where_the_disk_has_no_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Downloads(tiny_loaded())
    base = files._loaded.elastic.planner.at_ratio(0.6).base_bytes

    def nearly_full(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=downloads._SPARE + (5 - len(kept(cache))) * base)

    monkeypatch.setattr(downloads.shutil, "disk_usage", nearly_full)
    all_of_them = [written(files) for _ in range(6)]
    assert [file.path.exists() for file in all_of_them] == [False] * 2 + [True] * 4


def test_the_code_for_programs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    documents("c4", "held-out")  # says so when there is no text to measure on
    with served(tiny_loaded()) as (address, _):
        assert ADDRESS in client_code()
        exec(client_code().replace(ADDRESS, address), {})
    output = capsys.readouterr().out
    assert "Measured 60 %" in output and f"{address}acip/model/" in output and "{100: " in output


@pytest.mark.browser
def test_from_the_page(newcomer: Newcomer, tmp_path: Path) -> None:
    wrong: list[str] = []
    with served(tiny_loaded()) as (address, _):
        page = opened(newcomer(), address, wrong)
        page.locator(SLIDER).fill("60")
        page.get_by_role("button", name="Take it away").click()
        expect(page.locator("#exported .client code")).to_contain_text(f'Client("{address}")')
        with page.expect_download() as download:
            page.click("#export")
        assert download.value.suggested_filename.endswith("-at-60.zip")
        download.value.save_as(tmp_path / "model.zip")
        assert any(name.endswith("/config.json") for name in zipfile.ZipFile(tmp_path / "model.zip").namelist())
        expect(page.locator("#exported .status")).to_contain_text("60 % is ready")
        expect(page.locator("#exported .load code")).to_contain_text("-at-60")
        page.close()
    assert wrong == []
