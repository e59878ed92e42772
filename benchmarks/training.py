"""One scoring step and one adapter step against one LoRA fine-tuning step of the dense model on the same batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import mean, median

import torch
from peft import LoraConfig, get_peft_model

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.reader import read_artifact
from acip_core.data.corpus import documents, token_windows
from acip_core.evaluation.perplexity import WINDOW
from acip_core.model.autocast import mixed_precision
from acip_core.model.base_model import load_base
from acip_core.model.elastic_model import build_elastic
from acip_core.model.factor_cache import cached_factors
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from acip_core.scoring.acip import acip_scores
from acip_core.scoring.pruning_config import PAPER
from acip_core.training.adapters import AdapterConfig, train_adapters

from .figure import Figure, clock, median_of
from .plain import plain_model

_BATCH = 2
# The paper's run in a hurry: the same work per step, down to 40 % within a few dozen steps.
_HURRIED = replace(PAPER, batch=_BATCH, micro_batch=_BATCH, window=WINDOW, mask_learning_rate=1e-3, post_steps=0)


def measure_training(rounds: int = 4) -> list[Figure]:
    """Ratios of step times; LoRA steps of the same batch are measured between all others."""
    base = load_base()
    artifact = read_artifact(default_artifact(base.name))
    windows = token_windows(base.tokenizer, documents("c4", "calibration"), WINDOW, 16)
    weights = target_layers(base.model).weight_copies()
    factors = finish(cached_factors(weights, artifact.fingerprint, artifact.basis, artifact.gradients))

    lora = _lora_steps(windows, _BATCH)
    run = acip_scores(base, factors, windows, _HURRIED)
    _timed(lora), _timed(lambda: next(run))
    dense, pruning = [], []
    while (seconds := _timed(lambda: next(run, None))) and _running(run):
        pruning.append(seconds)
        if len(dense) < rounds or len(pruning) % 4 == 0:
            dense.append(_timed(lora))
    start = [seconds / median(dense) for seconds in pruning[:rounds]]

    elastic = finish(build_elastic(load_base(), factors, artifact.scores, pivoted=artifact.pivoted))
    single = _lora_steps(windows, 1)
    figures = [
        median_of("scoring step at full size ÷ dense LoRA step", start, "×", 1.6),
        Figure("scoring step ÷ dense LoRA step, mean down to 40 %", mean(pruning) / median(dense), "×", 1.2),
    ]
    for name, distillation in (("adapter step", 0.0), ("adapter step with distillation", 0.5)):
        settings = AdapterConfig(steps=10_000, distillation=distillation)
        training = train_adapters(elastic, windows, settings)
        next(training), _timed(single)
        ratios = [_timed(lambda: next(training)) / _timed(single) for _ in range(3 * rounds)]  # noqa: B023
        training.close()
        figures.append(median_of(f"{name} ÷ dense LoRA step", ratios, "×", 1.1))
    return figures


def _running(run: Iterator) -> bool:
    return run.gi_frame is not None  # type: ignore[attr-defined]


def _timed(step: Callable[[], object]) -> float:
    began = clock()
    step()
    return clock() - began


def _lora_steps(windows: torch.Tensor, batch: int) -> Callable[[], None]:
    """PEFT's LoRA on all target layers, as the paper sets it, in the precision that our own steps use."""
    model = plain_model(load_base())
    targets = sorted({name.rpartition(".")[2] for name in target_layers(model)})
    tuned = get_peft_model(
        model, LoraConfig(r=PAPER.rank, lora_alpha=PAPER.alpha, lora_dropout=PAPER.dropout, target_modules=targets)
    )
    optimizer = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=PAPER.adapter_learning_rate)
    tuned.train()

    def step() -> None:
        ids = windows[:batch].to(model.device)
        with mixed_precision(model.device):
            loss = tuned(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
