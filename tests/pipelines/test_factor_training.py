"""The stage that trains factors: what a budget buys, and several processes that end like one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from acip_core.pipelines import factor_training
from acip_core.progress import Progress, Steps, finish
from acip_core.storage.resumable import ResumableRun
from acip_core.training.blocks import BlockConfig
from acip_core.training.factors import FactorConfig
from tests.support.tiny import calibration, tiny_elastic

pytestmark = pytest.mark.usefixtures("exact")


@pytest.mark.parametrize(("blocks", "left"), [(None, 10), (BlockConfig(steps=3, batch=2, windows=4), 8)])
def test_blocks_count_in_the_budget(blocks: BlockConfig | None, left: int, monkeypatch: pytest.MonkeyPatch):
    """Three steps over all blocks, and two batches that pass them, which takes less than one step end to end.

    Half of what is left finds scales, for its steps are as small as those of the training.
    """

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


_WORKERS = """
import json, sys, torch
from pathlib import Path
from accelerate import PartialState, debug_launcher
from acip_core.pipelines.factor_training import train_within_budget
from acip_core.progress import finish
from acip_core.storage.resumable import ResumableRun
from acip_core.model import autocast
from acip_core.training.blocks import BlockConfig
from acip_core.training.factors import FactorConfig
from tests.support.tiny import calibration, tiny_elastic
autocast.mixed_precision_is_native = lambda device: False

def work(factors, blocks, out):
    torch.set_num_threads(1)
    state, folder = PartialState(cpu=True), ResumableRun(Path(out) / "run")
    settings = FactorConfig(**factors), BlockConfig(**blocks)
    updates, found = finish(train_within_budget(tiny_elastic(), calibration(), *settings, None, folder))
    again, _ = finish(train_within_budget(tiny_elastic(), calibration(), *settings, None, folder))
    _, timed = finish(train_within_budget(tiny_elastic(), calibration(), settings[0], None, 1e-4, ResumableRun(None)))
    sides = [{name: update.down.matrix() for name, update in of.items()} for of in (updates, again)]
    result = {"processes": state.num_processes, "sides": sides, "losses": found.losses, "steps": len(timed.losses)}
    torch.save(result, f"{out}/{state.process_index}")

debug_launcher(work, (*map(json.loads, sys.argv[1:3]), sys.argv[3]), num_processes=2)
"""


def test_two_processes_end_like_one(tmp_path: Path) -> None:
    """Forked by accelerate from one that has imported everything: a launcher for each takes four starts."""
    settings = FactorConfig(steps=4, batch=4, learning_rate=1e-3, sampled=4), BlockConfig(3, 2, 6, 1e-3)
    command = [sys.executable, "-c", _WORKERS, *(json.dumps(asdict(part)) for part in settings), str(tmp_path)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=600)
    one, other = (torch.load(tmp_path / f"{i}") for i in range(2))
    assert one["processes"] == 2 and one["steps"] == other["steps"]
    steps = factor_training.train_within_budget(tiny_elastic(), calibration(), *settings, None, ResumableRun(None))
    updates, found = finish(steps)
    assert found is not None
    torch.testing.assert_close(one["losses"], found.losses, rtol=1e-3, atol=1e-4)
    for name, update in updates.items():
        for run in (*one["sides"], other["sides"][0]):
            assert torch.equal(run[name], other["sides"][1][name])
        far = (one["sides"][0][name] - update.down.matrix()).norm() / update.down.matrix().norm()
        assert far < 0.05  # an entry at the threshold may fall on either side of it
