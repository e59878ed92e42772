"""Gradient runs in either precision."""

from __future__ import annotations

import pytest

from acip_core.model import autocast


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def mixed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocast, "mixed_precision_is_native", lambda device: request.param)
