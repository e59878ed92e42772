"""What comes before all tests: no network, signals as in a terminal, the longest files first; then the fixtures."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the Hub library is imported: must come before everything else
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import gc
import signal

import pytest

gc.disable()  # until all is collected: no import leaves garbage, and looking for it takes a fifth of the time

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job, whose children would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """A process that only hands out tests to others starts them 4 s earlier without torch and transformers."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.support.fixtures")


@pytest.hookimpl(trylast=True)  # after a random order, which may be asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gc.enable()
    gc.freeze()  # as long as what was imported were looked through, too, each look would take 0.3 s
    items.sort(key=lambda item: item.get_closest_marker("long") is None)  # the rest stays in order
