"""Matrices as a file would hold them: every point is measured with what its stored tensors decode to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from acip_core.model.published import published_blocks

_EIGHT_GROUP = 32


@dataclass(frozen=True)
class Stored:
    """A quantized matrix.

    Attributes:
        tensors: all that a file needs to give the matrix back, by name.
        matrix: what they decode to, float32 (m, n).
    """

    tensors: Mapping[str, torch.Tensor]
    matrix: torch.Tensor

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers 0 … 2^bits − 1 of any shape as a row of bits, uint8 (⌈count · bits / 8⌉,)."""
    of_each = np.unpackbits(codes.reshape(-1, 1).to(torch.uint8).numpy(), axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(of_each.reshape(-1)))


def unpack(packed: torch.Tensor, bits: int, shape: Sequence[int]) -> torch.Tensor:
    """What `pack` was given, uint8 of this shape."""
    count = int(np.prod(shape))
    of_each = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    return torch.from_numpy(np.packbits(of_each, axis=1)[:, 0] >> (8 - bits)).view(*shape)


@torch.no_grad()
def eight_bits(table: torch.Tensor) -> Stored:
    """An embedding or a head (tokens, n) in 8 bits, groups of 32; its own blocks where it was published in such."""
    blocks = published_blocks(table.float())
    if blocks is not None and blocks.offset is None:
        return Stored({"codes": blocks.codes, "scale": blocks.scale}, blocks.matrix())
    group = _EIGHT_GROUP if table.shape[1] % _EIGHT_GROUP == 0 else table.shape[1]
    grouped = table.float().view(len(table), -1, group)
    scale = (grouped.abs().amax(-1) / 127).half()
    codes = (grouped / scale.float().clamp_min(1e-30)[..., None]).round().clamp(-127, 127).to(torch.int8)
    return Stored({"codes": codes, "scale": scale}, (codes.float() * scale.float()[..., None]).flatten(1))
