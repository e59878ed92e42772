"""The stage that trains factors: what a budget buys."""

from __future__ import annotations

import pytest

from acip_core.pipelines import factor_training
from acip_core.progress import Progress, Steps, finish
from acip_core.storage.resumable import ResumableRun
from acip_core.training.blocks import BlockConfig
from acip_core.training.factors import FactorConfig
from tests.support.tiny import calibration, tiny_elastic


@pytest.mark.parametrize(("blocks", "left"), [(None, 20), (BlockConfig(steps=3, batch=2, windows=4), 16)])
def test_blocks_count_in_the_budget(blocks: BlockConfig | None, left: int, monkeypatch: pytest.MonkeyPatch):
    """Three steps over all blocks, and two batches that pass them, which takes less than one step end to end."""

    def timed(*_: object) -> Steps[float]:
        yield Progress("timing the training", 0, 1)
        return 0.1

    monkeypatch.setattr(factor_training, "_seconds_per_step", timed)
    elastic, resumable = tiny_elastic(), ResumableRun(None)
    steps = factor_training.train_within_budget(
        elastic, calibration(), FactorConfig(steps=6, batch=2, sampled=5), blocks, 2 / 3600, resumable
    )
    _, found = finish(steps)
    assert found is not None and len(found.losses) == left
