"""Text of the model's own: whole windows that continue calibration text, the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from acip_core.training.sampled_text import sampled_windows
from tests.support.tiny import calibration, tiny_base


def test_windows_begin_like_the_text_and_are_whole(family: str) -> None:
    base, text = tiny_base(family), calibration()
    windows = sampled_windows(base.model, text, (1,), 5, seed=0)
    assert windows.shape == (5, text.shape[1]) and windows.dtype == text.dtype
    assert (windows[:, 0] == 1).all()
    known = {tuple(row[i : i + 10].tolist()) for row in text for i in range(len(row) - 10)}
    assert all(tuple(window[1:11].tolist()) in known for window in windows)
    assert int(windows.min()) >= 0 and int(windows.max()) < base.model.config.vocab_size


def test_one_seed_one_text() -> None:
    base, text = tiny_base(), calibration()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = sampled_windows(base.model, text, (), 4, seed=7)
    assert torch.equal(torch.rand(3), expected)  # the caller's own draws go on as if nothing had been sampled
    assert torch.equal(sampled_windows(base.model, text, (), 4, seed=7), first)
    assert not torch.equal(sampled_windows(base.model, text, (), 4, seed=8), first)


def test_an_end_token_ends_no_window() -> None:
    base = tiny_base()
    base.model.generation_config.eos_token_id = list(range(base.model.config.vocab_size))
    assert sampled_windows(base.model, calibration(), (1,), 3, seed=0).shape == (3, calibration().shape[1])


@pytest.mark.parametrize("length", [3, 8])
def test_short_windows(length: int) -> None:
    assert sampled_windows(tiny_base().model, calibration()[:, :length], (1,), 2, seed=0).shape == (2, length)
