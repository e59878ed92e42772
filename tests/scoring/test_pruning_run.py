"""A pruning run that is killed, broken, short of memory, or divided over two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.errors import CorpusError, ModelError
from acip_core.progress import finish
from acip_core.scoring.acip import acip_scores
from acip_core.scoring.pruning_run import PruningRun
from tests.support.pruning import SETTINGS, run, same
from tests.support.tiny import calibration, tiny_base, tiny_factors

pytestmark = pytest.mark.usefixtures("exact")


@pytest.mark.parametrize("killed_after", [1, 6, "stop"])
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, killed_after, mixed: None):
    whole = finish(run())
    steps = len(whole.history["size"])
    killed = steps - SETTINGS.post_steps + 1 if killed_after == "stop" else killed_after
    checkpoint = tmp_path / "acip.safetensors"
    first = run(checkpoint=checkpoint)
    for _ in range(killed + 1):  # the checkpoint follows the yield
        next(first)
    first.close()
    seen = []
    again = finish(run(checkpoint=checkpoint), seen.append)
    assert len(seen) == steps - killed
    assert same(again, whole)


@pytest.mark.parametrize("wrong", ["another run", "another start", "truncated", "no sizes"])
def test_a_checkpoint_of_another_kind_is_not_trusted(tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture):
    checkpoint = tmp_path / "acip.safetensors"
    finish(run(checkpoint=checkpoint, settings=replace(SETTINGS, seed=int(wrong == "another run"))))
    settings, options = SETTINGS, {}
    if wrong == "another start":
        factors = tiny_factors(tiny_base())
        options = {"warm": {name: f.singular_values for name, f in factors.items()}}
        settings = replace(SETTINGS, warm_start=0.5)
    if wrong == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    if wrong == "no sizes":
        checkpoint.write_bytes(checkpoint.read_bytes().replace(b'"sizes"', b'"seizs"'))
    assert same(
        finish(run(settings=settings, checkpoint=checkpoint, **options)), finish(run(settings=settings, **options))
    )
    assert "starting anew" in caplog.text


def test_a_loss_that_is_not_finite_names_step_and_windows_and_keeps_the_checkpoint(tmp_path: Path):
    base, checkpoint = tiny_base(), tmp_path / "acip.safetensors"
    steps = acip_scores(base, tiny_factors(base), calibration(), SETTINGS, checkpoint=checkpoint)
    for _ in range(4):
        next(steps)
    with torch.no_grad():
        base.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"step 5, calibration windows \[\d, \d\]"):
        next(steps)
    seen = []
    finish(run(checkpoint=checkpoint), seen.append)
    assert len(seen) == len(finish(run()).history["size"]) - 4


def test_too_little_memory_halves_the_batch_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog):
    loss = PruningRun._loss

    def greedy(self, ids: torch.Tensor) -> torch.Tensor:
        if len(ids) > limit:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")
        return loss(self, ids)

    limit = 1
    monkeypatch.setattr(PruningRun, "_loss", greedy)
    plain = replace(SETTINGS, dropout=0.0)
    result = finish(run(settings=plain))
    assert caplog.text.count("continuing with 1 windows") == 1
    assert same(result, finish(run(settings=replace(plain, micro_batch=1))))
    limit = 0
    with pytest.raises(ModelError, match="does not hold one window of 32 tokens"):
        next(run())


def test_what_cannot_be_run_is_one_sentence():
    with pytest.raises(CorpusError, match="6 windows of 32 tokens, fewer than one batch of 8"):
        next(run(settings=replace(SETTINGS, batch=8)))
    with pytest.raises(ModelError, match=r"size ratio of 1.00 after 4 steps, not 0.5; raise the penalty"):
        finish(run(settings=replace(SETTINGS, max_steps=4, mask_learning_rate=1e-6)))


_WORKERS = """
import json, sys, torch
from accelerate import debug_launcher
from acip_core.model import autocast
from acip_core.progress import finish
from acip_core.scoring.acip import acip_scores
from acip_core.scoring.pruning_config import PruningConfig
from accelerate import PartialState
from tests.support.tiny import calibration, tiny_base, tiny_factors
autocast.mixed_precision_is_native = lambda device: False

def work(config, out):
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    base = tiny_base()
    result = finish(acip_scores(base, tiny_factors(base), calibration(), PruningConfig(**config)))
    torch.save({"processes": state.num_processes, "scores": result.scores}, f"{out}.{state.process_index}")

debug_launcher(work, (json.loads(sys.argv[1]), sys.argv[2]), num_processes=2)
"""


def test_two_processes_end_like_one(tmp_path: Path):
    """Forked by accelerate from one that has imported everything: a launcher for each takes four starts."""
    settings = replace(SETTINGS, dropout=0.0, micro_batch=1)
    arguments = json.dumps({name: getattr(settings, name) for name in settings.__dataclass_fields__})
    command = [sys.executable, "-c", _WORKERS, arguments, str(tmp_path / "out")]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=600)
    results = [torch.load(tmp_path / f"out.{i}") for i in range(2)]
    assert results[0]["processes"] == 2
    single = finish(run(settings=settings)).scores
    for name, score in single.items():
        assert torch.equal(results[0]["scores"][name], results[1]["scores"][name])
        torch.testing.assert_close(results[0]["scores"][name], score, rtol=1e-3, atol=1.01)
