"""nf4 with double quantization (QLoRA, arXiv 2305.14314), by bitsandbytes: 4-bit normal quantiles, blocks of 64."""

from __future__ import annotations

from typing import Any

import torch

from acip_core.progress import Steps

from .stored import Stored
from .subject import Peer, Subject, by_layer

_BLOCK = 64


def nf4_peers(subject: Subject) -> list[Peer]:
    """The one size of nf4.

    Raises:
        ModuleNotFoundError: bitsandbytes is missing.
    """
    try:
        from bitsandbytes import functional
    except ModuleNotFoundError:
        raise ModuleNotFoundError("bitsandbytes is not installed; `pip install bitsandbytes` adds it.") from None

    def make() -> Steps[dict[str, Stored]]:
        return by_layer(subject, "nf4", lambda _, weight: nf4(functional, weight))

    return [Peer("nf4", f"blocks of {_BLOCK}, double quantization", make)]


@torch.no_grad()
def nf4(functional: Any, weight: torch.Tensor) -> Stored:
    """A matrix (m, n) as `bitsandbytes.functional` stores it; its two code books are the same for all matrices."""
    codes, state = functional.quantize_4bit(
        weight.float().contiguous(), blocksize=_BLOCK, quant_type="nf4", compress_statistics=True
    )
    tensors = {"codes": codes, "absmax": state.absmax, "absmax2": state.state2.absmax, "offset": state.offset}
    return Stored(tensors, functional.dequantize_4bit(codes, state).float())
