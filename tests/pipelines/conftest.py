"""A tiny model with its artifact, and recipes and budgets that tiny models finish in seconds."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from pathlib import Path

import pytest

from acip_core.artifacts.writer import write_artifact
from acip_core.pipelines.comparison_run import ComparisonConfig
from acip_core.pipelines.recipes import PrecomputeConfig
from acip_core.scoring.pruning_config import PruningConfig
from acip_core.training.aa_svd import AaSvdConfig
from acip_core.training.adapters import AdapterConfig
from acip_core.training.factors import FactorConfig
from tests.support.tiny import save, tiny_artifact, tiny_base


@pytest.fixture
def fitted(cache: Path, tmp_path: Path) -> str:
    base = tiny_base()
    save(base, tmp_path / "tiny")
    write_artifact(replace(tiny_artifact(base), name="tiny"), tmp_path / "artifact")
    return str(tmp_path / "tiny")


@pytest.fixture
def budget(text: str) -> ComparisonConfig:
    adapters = AdapterConfig(rank=2, alpha=4, steps=4, smallest=0.5)
    pruning = PruningConfig(mask_learning_rate=4e-3, penalty=1e-2, batch=1, window=32, rank=2, post_steps=2)
    return ComparisonConfig(
        (0.8, 0.7), (text,), window=32, score_windows=4, held_out_windows=3, adapters=adapters,
        factors=FactorConfig(batch=2), aa_svd=AaSvdConfig(epochs=2, batch=2),
        small=replace(pruning, warm_start=0.5), published=pruning,
    )  # fmt: skip


@pytest.fixture
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every step, so that a killed run has something to continue from."""
    monkeypatch.setattr("acip_core.training.checkpoint.CHECKPOINT_SECONDS", -1)


@pytest.fixture
def text(tmp_path: Path) -> str:
    """The path of random letters."""
    source = random.Random(0)
    lines = ["".join(source.choices(string.ascii_lowercase + " ", k=60)) for _ in range(60)]
    (tmp_path / "text.txt").write_text("\n\n".join(lines), encoding="utf-8")
    return str(tmp_path / "text.txt")


@pytest.fixture
def recipe(text: str, frequent_checkpoints: None) -> PrecomputeConfig:
    """Every stage of `precompute` but what is asked of the model at the end."""
    return PrecomputeConfig(
        corpora=(text,),
        window=32,
        moment_windows=4,
        score_windows=4,
        basis_rank=16,
        adapters=AdapterConfig(rank=2, alpha=4, steps=6, smallest=0.4),
        refining=AdapterConfig(steps=2, batch=2, smallest=0.4, distillation=1.0, seed=1),
        curve_windows=3,
        ratios=(1.0, 0.6),
        examples=(),
        codes=None,
        knowledge=False,
    )
