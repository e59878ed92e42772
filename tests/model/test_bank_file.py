"""Factors in a file: the same sizes, bit for bit; in memory where there is no file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from acip_core.model.bank_file import keep_banks_in_file
from acip_core.storage.mapped import give_pages_back
from tests.support.tiny import tiny_elastic


def logits(elastic, ids: torch.Tensor) -> list[torch.Tensor]:
    found = []
    with torch.inference_mode():
        for ratio in (1.0, 0.7, 0.4):
            elastic.set_size(ratio)
            found += [elastic.model(ids).logits, elastic.model(ids[:, :1]).logits]  # a token has products of its own
    return found


@pytest.mark.parametrize("adapters", [0, 2])
def test_every_size_is_what_it_was(adapters: int, cache: Path) -> None:
    elastic, ids = tiny_elastic(adapter_rank=adapters), torch.arange(5, 45)[None]
    before = logits(elastic, ids)
    keep_banks_in_file(elastic)
    for _ in range(2):
        assert all(torch.equal(new, old) for new, old in zip(logits(elastic, ids), before, strict=True))
        give_pages_back()
    assert not list(cache.rglob("banks/*"))


def test_where_nothing_can_be_written_they_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ACIP_CACHE", str(tmp_path / "file"))
    elastic = tiny_elastic()
    banks = [layer.down for layer in elastic.elastic_layers().values()]
    with caplog.at_level(logging.WARNING, "acip"):
        keep_banks_in_file(elastic)
    assert "The factors stay in memory" in caplog.text
    assert all(layer.down is bank for layer, bank in zip(elastic.elastic_layers().values(), banks, strict=True))
