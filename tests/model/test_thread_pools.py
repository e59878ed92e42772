"""Who has computed gives its threads back; what is small is computed without any."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
import torch

from acip_core.generation import engine as generate
from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.model import thread_pools
from acip_core.model.thread_pools import on_one_thread, one_thread, release_threads
from tests.support.tiny import tiny_elastic

T = TypeVar("T")
LARGE = 2**20  # numbers that are added up on all cores
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or thread_pools._gnu_openmp() is None, reason="OpenMP is another's than GNU's"
)


def on_a_thread_of_two(function: Callable[[], T]) -> T:
    """The result of a function on a new thread that computes on two cores."""
    results: list[T] = []

    def run() -> None:
        torch.get_num_threads()  # from here on it counts what is set for this thread alone
        library = thread_pools._gnu_openmp()
        assert library is not None
        library.omp_set_num_threads(2)
        results.append(function())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def threads_once(wanted: int) -> int:
    """As `threads`, once there are so many: one that was told to end takes its time."""
    end = time.monotonic() + 10
    while (count := threads()) != wanted and time.monotonic() < end:
        time.sleep(0.001)
    return count


def test_a_pool_ends_and_begins_again() -> None:
    def counted() -> list[int]:
        found = [threads()]
        for _ in range(2):
            torch.ones(LARGE).sum()
            found.append(threads())
            release_threads()
            found.append(threads_once(found[0]))
        return found

    before, *later = on_a_thread_of_two(counted)
    assert later == [before + 1, before, before + 1, before]


def test_a_block_computes_without_a_pool() -> None:
    def counted() -> tuple[int, int, int, int]:
        before = threads()
        with one_thread():
            within = torch.get_num_threads()
            torch.ones(LARGE).sum()
            computed = threads()
        return before, within, computed, torch.get_num_threads()

    before, within, computed, after = on_a_thread_of_two(counted)
    assert (within, computed, after) == (1, before, 2)


def test_steps_are_passed_on_and_closed() -> None:
    found: list[int] = []

    def steps() -> Iterator[int]:
        try:
            for step in range(3):
                found.append(torch.get_num_threads())
                yield step
        finally:
            found.append(-1)

    def consumed() -> list[int]:
        passed = on_one_thread(steps())
        some = [next(passed), next(passed), torch.get_num_threads()]
        passed.close()  # type: ignore[attr-defined]
        return some

    assert on_a_thread_of_two(consumed) == [0, 1, 2]
    assert found == [1, 1, -1]
    assert list(on_one_thread(iter("abc"))) == ["a", "b", "c"]


def test_who_reads_a_text_leaves_the_cores_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, counts = Engine(tiny_elastic()), []
    choose = generate.choose_tokens
    monkeypatch.setattr(generate, "choose_tokens", lambda *a: counts.append(torch.get_num_threads()) or choose(*a))
    plan = engine.elastic.planner.at_ratio(0.7)
    on_a_thread_of_two(lambda: list(engine.stream("Hello", plan, SamplingConfig(0.9, max_new_tokens=5))))
    assert counts and set(counts) == {1}
