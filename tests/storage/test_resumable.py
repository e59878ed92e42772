"""Steps of a resumable run: computed once, read afterwards, made again where their file is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from acip_core.progress import Progress, Steps, finish
from acip_core.storage.digests import cache_key, digest
from acip_core.storage.resumable import ResumableRun


@pytest.fixture
def run(cache: Path) -> ResumableRun:
    return ResumableRun.of("kind", "name", "identity")


def tensors(calls: list[int]) -> Steps[dict[str, torch.Tensor]]:
    calls.append(1)
    yield Progress("making", 1, 1)
    return {"a": torch.arange(3.0)}


def test_a_step_is_computed_once(run: ResumableRun, cache: Path) -> None:
    calls: list[int] = []
    first = finish(run.tensors("step", tensors(calls)))
    again = finish(ResumableRun.of("kind", "name", "identity").tensors("step", tensors(calls)))
    assert torch.equal(first["a"], again["a"]) and len(calls) == 1
    assert run.folder == cache / "kind" / f"name-{cache_key('identity')}"


def test_a_damaged_step_is_computed_again(run: ResumableRun) -> None:
    calls: list[int] = []
    finish(run.tensors("step", tensors(calls)))
    path = run.path("step.safetensors")
    assert path is not None
    path.write_bytes(path.read_bytes()[:-4])
    assert torch.equal(finish(run.tensors("step", tensors(calls)))["a"], torch.arange(3.0)) and len(calls) == 2


def test_another_identity_and_another_part_are_other_runs(run: ResumableRun) -> None:
    calls: list[int] = []
    for other in (run, ResumableRun.of("kind", "name", "other"), run.part("stages", 1), run.part("stages", 2)):
        finish(other.tensors("step", tensors(calls)))
    assert len(calls) == 4


def test_numbers_are_kept_and_removed_with_the_run(run: ResumableRun) -> None:
    def make(value: float) -> Steps[float]:
        yield Progress("making", 1, 1)
        return value

    assert [finish(run.number("loss", make(value))) for value in (0.1, 2.0)] == [0.1, 0.1]
    run.remove()
    assert finish(run.number("loss", make(2.0))) == 2.0


def test_a_run_without_a_folder_keeps_nothing() -> None:
    run, calls = ResumableRun(None), []
    for _ in range(2):
        finish(run.part("stages", 1).tensors("step", tensors(calls)))
    run.check_writable()
    run.remove()
    assert len(calls) == 2 and run.path("step") is None


def test_a_digest_is_that_of_all_parts_in_order() -> None:
    def parts() -> Iterator[object]:
        yield "a"
        yield torch.tensor([1.0, 2.0]).bfloat16()

    whole = digest(b"a", torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
    assert whole == digest(parts()) == digest(iter(["a"]), b"\x80\x3f\x00\x40")
    assert digest({"b": 1, "c": (2, Path("d"))}) == digest('{"b": 1, "c": [2, "d"]}')
    assert len({whole, digest("a"), digest(torch.tensor([1.0, 2.0]))}) == 3
    assert cache_key("a", length=5) == digest("a")[:5]
