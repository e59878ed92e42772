"""The cost of running a size: floating-point operations per token, counted, and tokens per second, measured."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from torch import nn
from transformers import PreTrainedModel

from ..model.size_planner import Plan
from .engine import Engine

_STEPS, _ROUNDS = 6, 5  # decoding steps per size and round; sizes alternate, so that a busy moment affects all alike


def lookup_parameters(model: PreTrainedModel) -> int:
    """Parameters that are looked up and never multiplied: embeddings that do not serve as the head as well."""
    head = model.get_output_embeddings()
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    return sum(table.numel() for table in tables if head is None or table is not head.weight)


def flops_per_token(plan: Plan, lookups: int) -> int:
    """Floating-point operations to decode one token: two per parameter that is multiplied.

    Attention over the tokens before comes on top, at every size the same.

    Args:
        lookups: as `lookup_parameters`.
    """
    return 2 * (plan.parameters - lookups)


def measure_speeds(engine: Engine, plans: Sequence[Plan], cancel: threading.Event) -> Iterator[list[float]]:
    """Tokens per second of greedy decoding at every size, sequence by sequence, after each round over all sizes.

    Time spent waiting for other callers is not counted. Whatever else the machine does can only slow a step down, so
    the fastest of a size comes nearest to its speed alone.

    Returns:
        One speed per plan, of its fastest step so far.
    """
    seconds: list[list[float]] = [[] for _ in plans]
    for _ in range(_ROUNDS):
        for plan, times in zip(plans, seconds, strict=True):
            for step in engine.decode_seconds(plan, _STEPS):
                if cancel.is_set():
                    return
                times.append(step)
        yield [1 / min(times) for times in seconds]
