"""The cache of codes: made once, by one process at a time, and again where it is damaged."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from acip_core.model import code_cache
from acip_core.model.base_model import fingerprint
from acip_core.model.code_cache import CodedModel, cached_codes
from acip_core.model.coded_states import coded_matrices
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.progress import Progress, Steps, finish
from tests.support.tiny import calibration, tiny_basis, tiny_elastic

Making = Callable[[], Steps[CodedModel]]


@pytest.fixture
def making(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Making:
    """Codes of a tiny model, with an empty cache that takes them in several files."""
    monkeypatch.setattr(code_cache, "_PART", 4000)
    elastic = tiny_elastic("llama")
    basis = tiny_basis(elastic.base)
    moments = finish(measure_coding_moments(elastic.model, calibration(), list(elastic.elastic_layers()), basis))
    matrices = coded_matrices(elastic, moments.tables)
    return lambda: cached_codes(matrices, moments, fingerprint(matrices))


def assert_same(one: CodedModel, other: CodedModel) -> None:
    assert list(one.matrices) == list(other.matrices)
    for name, matrix in one.matrices.items():
        assert matrix.bytes == other.matrices[name].bytes
        assert matrix.losses == other.matrices[name].losses
        assert all(torch.equal(a.z, b.z) for a, b in zip(matrix.codes, other.matrices[name].codes, strict=True))


def test_codes_are_the_same_however_many_are_made_side_by_side(making: Making, cache: Path):
    alone, threads = finish(making()), torch.get_num_threads()
    shutil.rmtree(cache / "codes")
    torch.set_num_threads(3)
    try:
        together = finish(making())
    finally:
        torch.set_num_threads(threads)
    assert_same(alone, together)


def test_damaged_codes_are_made_again(making: Making, cache: Path, caplog: pytest.LogCaptureFixture):
    first = finish(making())
    (folder,) = (cache / "codes").iterdir()
    for file in folder.glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.unlink()  # what is mapped of it stays as it was
        file.write_bytes(content)
    again = finish(making())
    assert "damaged" in caplog.text
    assert_same(first, again)


@contextmanager
def maker(making: Making) -> Iterator[tuple[BaseProcess, Event]]:
    """Another process that has made the first of several files; it goes on when the event is set."""
    context = multiprocessing.get_context("fork")
    begun, go_on = context.Event(), context.Event()

    def make() -> None:
        for step in making():
            if step.done > 4:
                begun.set()
                go_on.wait()

    process = context.Process(target=make)
    process.start()
    try:
        assert begun.wait(600)
        yield process, go_on
    finally:
        process.kill()
        process.join()


def test_a_second_process_waits_and_reads(making: Making):
    with maker(making) as (_, go_on):
        steps, seen = making(), list[Progress]()
        first = next(steps)
        assert first.stage == "waiting for another process that makes the codes" and 0 < first.done < first.total
        go_on.set()
        coded = finish(steps, seen.append)
    assert {step.stage for step in seen} <= {first.stage}, "it made what was there"
    assert_same(coded, finish(making()))


def test_a_second_process_goes_on_for_one_that_is_killed(making: Making, cache: Path):
    with maker(making) as (process, _):
        steps, seen = making(), list[Progress]()
        assert next(steps).stage.startswith("waiting")
        made = {path: path.stat().st_mtime_ns for path in cache.glob("codes/*/part-*")}
        process.kill()
        finish(steps, seen.append)
    assert any(step.stage == "making codes" for step in seen)
    assert made and made.items() <= {path: path.stat().st_mtime_ns for path in cache.glob("codes/*/part-*")}.items()
