"""The hyperparameters of a pruning run: the paper's, and those for small models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PruningConfig:
    """Hyperparameters of the pruning run; the defaults are the paper's (sections 3.2 and 4).

    Attributes:
        mask: initial value of every mask parameter.
        warm_start: 0 starts all masks alike; s spreads them over mask · (1 ± s) in the order of a given score map.
        mask_learning_rate, adapter_learning_rate: of Adam without weight decay, constant.
        penalty, penalty_growth, penalty_every: λ at the start and its factor every so many steps.
        stop_ratio: size ratio of the target layers, adapters not counted, at which scores are final.
        post_steps: steps on the adapters alone after the stop.
        max_steps: a run that has not stopped by then is given up.
        batch, window: windows per step over all processes, and their length in tokens.
        micro_batch: windows per backward pass; gradients are accumulated over a step.
        mixed_precision: bfloat16 where the device multiplies it natively.
        checkpointing: recompute activations in the backward pass instead of keeping them.
        exclude: last parts of the names of target layers that are not pruned, as `up_proj`: they rank above all others,
            but count in the size, unlike layers that are no targets.
        rank, alpha, dropout: of the adapters.
        distillation: weight of the KL divergence from the full model; the text's likelihood has the rest.
        seed: fixes initial adapters, order of windows and dropout.
    """

    mask: float = 0.02
    warm_start: float = 0.0
    mask_learning_rate: float = 5e-5
    adapter_learning_rate: float = 5e-5
    penalty: float = 1e-3
    penalty_growth: float = 1.01
    penalty_every: int = 4
    stop_ratio: float = 0.4
    post_steps: int = 1000
    max_steps: int = 20_000
    batch: int = 4
    window: int = 1024
    micro_batch: int = 4
    mixed_precision: bool = True
    checkpointing: bool = False
    exclude: tuple[str, ...] = ()
    rank: int = 32
    alpha: int = 16
    dropout: float = 0.05
    distillation: float = 0.0
    seed: int = 0

    def penalty_at(self, step: int) -> float:
        """λ at a step, counted from 0."""
        return self.penalty * self.penalty_growth ** (step // self.penalty_every)


PAPER = PruningConfig()


SMALL = PruningConfig(  # for models under 1 B on little text, chosen on the validation split (benchmarks/LOG.md)
    warm_start=0.7, mask_learning_rate=2e-4, adapter_learning_rate=1e-3, penalty_every=1, post_steps=0, max_steps=2000,
    batch=1, window=512, micro_batch=1, rank=16, alpha=32, dropout=0.0, distillation=0.5,
)  # fmt: skip
