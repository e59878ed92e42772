"""Free memory goes back to the system."""

from __future__ import annotations

import psutil
import pytest
import torch

from acip_core.ui import memory
from acip_core.ui.handlers import Handlers
from tests.support.visitor import REQUEST, SETTINGS, tiny_loaded


def test_holes_go_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_due", 0.0)
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
    monkeypatch.setattr(memory, "_malloc_trim", calls.append)
    monkeypatch.setattr(memory, "_due", 0.0)
    handlers = Handlers(tiny_loaded())
    for _ in range(2):
        list(handlers.complete("Hello", 60, *SETTINGS, REQUEST))
    assert calls == [0]
    monkeypatch.setattr(memory, "_due", 0.0)
    abandoned = handlers.complete("Hello", 60, *SETTINGS, REQUEST)
    next(abandoned)
    abandoned.close()  # type: ignore[attr-defined]
    assert calls == [0, 0]
