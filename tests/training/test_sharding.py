"""Two processes that hold half of the model each, by FSDP2 on CPUs: the scores and the adapters of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from acip_core.progress import finish
from acip_core.scoring.fisher import fisher_scores
from acip_core.training.adapters import AdapterConfig, train_adapters
from tests.support.tiny import calibration, tiny_base, tiny_elastic, tiny_factors

pytestmark = pytest.mark.usefixtures("exact")

CONFIG = Path(__file__).parents[2] / "examples" / "fsdp2.yaml"
TRAINING = AdapterConfig(rank=2, alpha=4, steps=3, batch=2)
_WORKERS = """
import os, sys, torch
from pathlib import Path
from accelerate import PartialState, debug_launcher
from acip_core.model import autocast
from acip_core.training import checkpoint, sharding
from acip_core.training.adapters import AdapterRun
autocast.mixed_precision_is_native = lambda device: False
from tests.training.test_sharding import made
held = []
divide = sharding._divided

def watched(block, trained, mesh):
    divided = divide(block, trained, mesh)
    local = sum(p.to_local().numel() for p in divided.parameters() if p not in trained)
    held.append(local / sum(p.numel() for p in divided.parameters() if p not in trained))
    return divided

def dies(self, advance=AdapterRun.advance):
    if self.step == 2 and PartialState().process_index == 1:
        os._exit(9)
    return advance(self)

def work(out):
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    sharding._divided = watched
    checkpoint.CHECKPOINT_SECONDS = -1
    if sys.argv[2:]:
        AdapterRun.advance = dies
    scores, adapters, whole = made(Path(out) / "checkpoint")
    result = {"scores": scores, "adapters": adapters, "whole": whole, "held": held}
    torch.save(result, f"{out}/{state.process_index}")

debug_launcher(work, (sys.argv[1],), num_processes=2)
"""


def made(
    checkpoint: Path | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Fisher scores, trained adapters, and what the model says after both."""
    base = tiny_base()
    scores = finish(fisher_scores(base.model, tiny_factors(base), calibration()))
    elastic = tiny_elastic()
    adapters = finish(train_adapters(elastic, calibration(), TRAINING, checkpoint)).weights
    with elastic.at(elastic.planner.at_ratio(0.5)), torch.no_grad():
        logits = elastic.model(calibration()[:1], use_cache=False).logits
    return scores, {name: (weights.a, weights.b) for name, weights in adapters.items()}, logits


def test_two_processes_end_like_one_even_if_one_died_before(tmp_path: Path) -> None:
    """The first run loses one of its processes before the last step and ends; the second goes on from there."""
    settings = load_config_from_file(str(CONFIG))
    assert settings.distributed_type == "FSDP" and settings.fsdp_config["fsdp_version"] == 2
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    command = [sys.executable, "-c", _WORKERS, str(tmp_path)]
    assert subprocess.run([*command, "dies"], env=environment, capture_output=True, timeout=120).returncode
    assert (tmp_path / "checkpoint").is_file() and not (tmp_path / "0").exists()
    subprocess.run(command, env=environment, check=True, timeout=120)
    scores, adapters, whole = made()
    for process in range(2):
        found = torch.load(tmp_path / str(process))
        assert len(found["held"]) == 4 and max(found["held"]) < 0.52, "a process held more than half of a block"
        torch.testing.assert_close(found["whole"], whole)
        torch.testing.assert_close(found["scores"], scores, rtol=1e-3, atol=1e-9)
        torch.testing.assert_close(found["adapters"], adapters, rtol=1e-3, atol=1e-5)
