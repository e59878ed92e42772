"""Step 2 of ACIP (arXiv 2502.01717): the order in which one gradient run prunes the directions is the score map.

Every direction has a mask parameter `p`, used as the binary mask `1[p > 0]` with a straight-through gradient, while
low-rank adapters repair what is lost. The run minimizes

    NLL(p, adapters) + λ Σ max(p, 0)        λ grows geometrically; a direction that reached p ≤ 0 stays pruned

until the size ratio falls to `stop_ratio`, then trains the adapters alone. Algorithm 1 scores a direction that is
left with `p`, one that was pruned t steps before the stop with its last `p` minus t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from ..errors import CorpusError
from ..model.base_model import BaseModel
from ..model.elastic_model import AdapterWeights
from ..model.factorization import Factors
from ..progress import Steps
from ..training.checkpoint import Checkpoint
from ..training.data_parallel import check_batch
from .pruning_config import PAPER, PruningConfig
from .pruning_run import PruningRun


@dataclass(frozen=True)
class AcipResult:
    """Result of a pruning run.

    Attributes:
        scores: float32 (r,) per layer, by Algorithm 1.
        adapters: by layer, as trained along the way and after the stop.
        history: `size`, `loss` and `lambda` (steps,), `trajectories` (steps, sample) of the masks `sample` (sample, 2),
            each a layer's and a direction's index, and that layer's place among the sorted names, `places` (layers,).
    """

    scores: dict[str, torch.Tensor]
    adapters: dict[str, AdapterWeights]
    history: dict[str, torch.Tensor]


def acip_scores(
    base: BaseModel,
    factors: Mapping[str, Factors],
    windows: torch.Tensor,
    settings: PruningConfig = PAPER,
    warm: Mapping[str, torch.Tensor] | None = None,
    checkpoint: Path | None = None,
) -> Steps[AcipResult]:
    """Rank all directions by the order in which they are pruned; the model is unchanged afterwards.

    Under `accelerate launch` every process takes its share of each batch and all end with the same result.

    Args:
        windows: (windows, settings.window) calibration token ids.
        warm: (r,) scores per layer in whose order the masks start when `settings.warm_start` is not 0.
        checkpoint: file written every 45 s and read when it belongs to this very run, which then ends bit-identically.

    Raises:
        CorpusError: fewer windows than one batch.
        ModelError: a loss is not finite (the message names step and windows), memory does not hold one window, or the
            stop was not reached within `max_steps`; the checkpoint keeps the last good state.
    """
    state = PartialState()
    if len(windows) < settings.batch:
        raise CorpusError(
            f"The calibration text has {len(windows)} windows of {windows.shape[1]} tokens, fewer than one batch of "
            f"{settings.batch}; give more text or a smaller batch."
        )
    check_batch(settings.batch)
    run = PruningRun(base, factors, windows, settings, warm, state)
    store = Checkpoint(checkpoint, run.identity())
    run.resume(store)
    with run.attached():
        while not run.finished():
            run.advance()
            yield run.progress()
            if state.is_main_process and (run.finished() or store.due()):
                store.save(run.step, run.parameters, run.optimizer, run.state())
    state.wait_for_everyone()
    return AcipResult(run.scores(), run.weights(), run.history())
