"""What the page's former int4 precision ran: directions cut by their scores, factors and adapters in 4 and 8 bits."""

from __future__ import annotations

import torch

from acip_core.artifacts.loading import open_model
from acip_core.model.elastic_model import ElasticModel
from acip_core.model.quantization import Packed, Quantized, prefix
from acip_core.model.size_planner import DENSE
from acip_core.progress import Steps

from .stored import Stored
from .subject import Peer, Subject

_RATIOS = (0.8, 0.6, 0.4)  # of the target layers' parameters, adapters counted


def int4_rank_peers(subject: Subject) -> list[Peer]:
    """Several sizes of one quantized model."""
    opened: list[tuple[ElasticModel, Quantized]] = []

    def make(ratio: float) -> Steps[dict[str, Stored]]:
        if not opened:
            loaded = yield from open_model(subject.source, subject.artifact, precision="int4", same_weights=True)
            assert loaded.quantized is not None
            opened.append((loaded.elastic, loaded.quantized))
        elastic, quantized = opened[0]
        return cut(elastic, quantized, ratio)

    return [Peer("int4-ranks", f"{ratio:.0%} of the layers", lambda r=ratio: make(r)) for ratio in _RATIOS]


@torch.no_grad()
def cut(elastic: ElasticModel, quantized: Quantized, ratio: float) -> dict[str, Stored]:
    """Every layer as it is stored at a size ratio."""
    ranks = elastic.planner.at_ratio(ratio).ranks
    layers = elastic.elastic_layers().items()
    return {
        name: _stored(quantized.layers[name], rank, layer.adapter_rank)
        for (name, layer), rank in zip(layers, ranks, strict=True)
    }


def _stored(packed: Packed, rank: int, adapter_rank: int) -> Stored:
    if rank == DENSE:
        return Stored(packed.weight.state_dict(), packed.weight())
    rows = adapter_rank + rank
    parts = {"down": prefix(packed.down, rows), "up": prefix(packed.up, rows)}
    tensors = {f"{side}.{name}": tensor for side, part in parts.items() for name, tensor in part.items()}
    return Stored(tensors, packed.up()[:rows].T @ packed.down()[:rows])
