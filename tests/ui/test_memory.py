"""Free memory goes back to the system."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from acip_core.storage.mapped import moved_to_file
from acip_core.ui import memory
from acip_core.ui.handlers import Handlers
from tests.support.visitor import REQUEST, SETTINGS, tiny_loaded


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier test put off is not done meanwhile: it would be the last time, and nothing be due here."""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer) and thread.function is memory._catch_up:
            thread.cancel()
            thread.join()
    monkeypatch.setattr(memory, "_later", None)
    monkeypatch.setattr(memory, "_due", {})


def test_holes_go_back_to_the_system() -> None:
    process = psutil.Process()
    blocks = [torch.ones(8_000) for _ in range(10_000)]  # 320 MB, each too small for a mapping of its own
    kept = blocks[::100]
    del blocks
    before = process.memory_info().rss
    memory.give_back()
    assert before - process.memory_info().rss > 200e6
    assert all(block.sum() == 8_000 for block in kept)


def test_every_run_gives_back_but_not_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(memory, "give_heap_back", lambda: calls.append(0))
    handlers = Handlers(tiny_loaded())
    for _ in range(2):
        list(handlers.complete("Hello", 60, *SETTINGS, REQUEST))
    assert calls == [0]
    monkeypatch.setattr(memory, "_due", {})
    abandoned = handlers.complete("Hello", 60, *SETTINGS, REQUEST)
    next(abandoned)
    abandoned.close()  # type: ignore[attr-defined]
    assert calls == [0, 0]


def test_what_lies_in_files_is_resident_while_it_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = moved_to_file({"a": torch.ones(25_000_000), "none": torch.ones(0, 3)}, tmp_path)  # 100 MB
    assert not list(tmp_path.iterdir()), "nothing is left of a process that is killed"
    memory.give_back()
    process = psutil.Process()
    before = process.memory_info().rss

    def resident() -> bool:
        return process.memory_info().rss - before > 90e6

    monkeypatch.setattr(memory, "_SHARE", 10.0)
    assert not resident() and found["a"].sum() == 25_000_000 and found["none"].shape == (0, 3)
    memory.give_pages()
    memory.give_back()  # the second time just now
    assert resident()
    monkeypatch.setattr(memory, "_SHARE", 1e-6)
    memory.give_pages()  # likewise
    assert resident()
    monkeypatch.setattr(memory, "_due", {})
    memory.give_pages()
    assert not resident() and found["a"].sum() == 25_000_000 and resident()
    monkeypatch.setitem(memory._PAUSES, "heap", 0.3)
    monkeypatch.setattr(memory, "_later", None)
    monkeypatch.setattr(memory, "_due", {})
    memory.give_back()
    assert not resident() and found["a"].sum() == 25_000_000
    memory.give_back()
    assert resident()
    end = time.monotonic() + 60
    while resident() and time.monotonic() < end:
        time.sleep(0.02)
    assert not resident(), "what was not done at once is done later"
