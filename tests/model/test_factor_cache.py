"""The cache of factors: read when it is whole, made again when it is not, done without when it cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from acip_core.model import factor_cache
from acip_core.model.factor_cache import cached_factors
from acip_core.model.factorization import Factors, factorize
from acip_core.model.second_moments import SecondMoment, measure_basis
from acip_core.progress import finish
from tests.support.tiny import calibration, target_weights, tiny_base, tiny_basis


@pytest.fixture
def prepared(cache: Path) -> tuple[dict[str, torch.Tensor], dict[str, SecondMoment], dict[str, Factors], Path]:
    """Weights, basis, factors computed with an empty cache, and the file that appeared in it."""
    base = tiny_base()
    weights, basis = target_weights(base), tiny_basis(base)
    factors = finish(cached_factors(weights, "print", basis))
    (file,) = (cache / "factors").iterdir()
    return weights, basis, factors, file


def assert_same(first: dict[str, Factors], second: dict[str, Factors]) -> None:
    assert list(first) == list(second)
    for name, factors in first.items():
        assert torch.equal(factors.directions, second[name].directions)
        assert torch.equal(factors.singular_values, second[name].singular_values)


def test_second_call_reads_the_file(prepared):
    weights, basis, factors, file = prepared
    before, steps = (file.stat().st_mtime_ns, file.read_bytes()), []
    assert_same(finish(cached_factors(weights, "print", basis), steps.append), factors)
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before
    assert not steps, "nothing was computed"


def test_another_model_or_basis_has_another_file(prepared):
    weights, basis, _, file = prepared
    finish(cached_factors(weights, "other print", basis))
    finish(cached_factors(weights, "print", finish(measure_basis(tiny_base().model, calibration(), rank=5))))
    assert len(list(file.parent.iterdir())) == 3


@pytest.mark.parametrize("length", [0, 5, 3000, -1])
def test_truncated_cache_is_rebuilt(prepared, length: int, caplog: pytest.LogCaptureFixture):
    weights, basis, factors, file = prepared
    content = file.read_bytes()
    file.write_bytes(content[:length])
    assert_same(finish(cached_factors(weights, "print", basis)), factors)
    assert file.read_bytes() == content
    assert "damaged" in caplog.text and str(file) in caplog.text


def test_a_flipped_byte_anywhere_never_changes_the_factors(prepared):
    weights, basis, factors, file = prepared
    content = file.read_bytes()
    for position in [*range(0, 400, 23), *range(400, len(content), len(content) // 20), len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 0x11
        file.write_bytes(damaged)
        assert_same(finish(cached_factors(weights, "print", basis)), factors)
    assert file.read_bytes() == content


def test_full_disk_only_warns(cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def save(tensors, path, metadata):
        Path(path).write_bytes(b"the first half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(factor_cache, "save_file", save)
    base = tiny_base()
    factors = finish(cached_factors(target_weights(base), "print", tiny_basis(base)))
    assert_same(factors, finish(factorize(target_weights(base), tiny_basis(base))))
    assert len(caplog.records) == 1 and "No space left" in caplog.text and str(cache) in caplog.text
    assert list((cache / "factors").iterdir()) == []


def test_interrupted_write_leaves_the_old_file_or_none(prepared, monkeypatch: pytest.MonkeyPatch):
    weights, basis, _, file = prepared
    file.unlink()

    def interrupted(tensors, path, metadata):
        Path(path).write_bytes(b"the first half")
        raise KeyboardInterrupt

    monkeypatch.setattr(factor_cache, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finish(cached_factors(weights, "print", basis))
    assert list(file.parent.iterdir()) == []


def test_cache_folder_that_cannot_be_made_only_warns(tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ACIP_CACHE", str(tmp_path / "file" / "cache"))
    base = tiny_base()
    assert finish(cached_factors(target_weights(base), "print", tiny_basis(base)))
    assert len(caplog.records) == 1 and "every start will compute the factors again" in caplog.text
