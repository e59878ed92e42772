"""A weight exactly as its publisher stores it: in blocks of 4 or 8 bits where it was quantized, dense otherwise.

A GGUF file's blocks of 32 weights are w = d q + m with 4 bits for q (Q4_1), or w = d q with 8 (Q8_0), in float16.
The smallest and the largest weight of a block give d and m back, so blocks are found in the weights alone, and taken
only where every weight comes out bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .coded_modeling import BLOCK


@dataclass(frozen=True)
class Blocks:
    """A matrix (m, n) in blocks.

    Attributes:
        codes: uint8 (m, n / 2), the even column in the upper half, or int8 (m, n).
        scale: float16 (m, n / 32).
        offset: float16 (m, n / 32) with 4 bits; None with 8.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor | None

    @property
    def bytes(self) -> int:
        """Of codes, scales and offsets together."""
        parts = (self.codes, self.scale, self.offset)
        return sum(part.nbytes for part in parts if part is not None)

    def matrix(self) -> torch.Tensor:
        """The weights, float32 (m, n)."""
        codes = self.codes if self.offset is None else torch.stack([self.codes >> 4, self.codes & 15], -1).flatten(1)
        grouped = codes.float().view(*self.scale.shape, BLOCK) * self.scale.float()[..., None]
        if self.offset is not None:
            grouped = grouped + self.offset.float()[..., None]
        return grouped.flatten(1)


@torch.no_grad()
def published_blocks(weight: torch.Tensor) -> Blocks | None:
    """The blocks that a float32 weight (m, n) came out of; None where it is of no such blocks."""
    if weight.dtype != torch.float32 or weight.shape[1] % BLOCK:
        return None
    sample = weight[:1]
    return next((found for of in (_four, _eight) if of(sample) is not None and (found := of(weight)) is not None), None)


def _four(weight: torch.Tensor) -> Blocks | None:
    grouped = weight.view(len(weight), -1, BLOCK)
    low, high = grouped.amin(-1), grouped.amax(-1)
    offset, scale = low.half(), ((high - low) / 15).half()
    q = ((grouped - offset.float()[..., None]) / scale.float().clamp_min(1e-30)[..., None]).round().clamp(0, 15)
    q = q.to(torch.uint8).flatten(1)
    blocks = Blocks(q[:, ::2] << 4 | q[:, 1::2], scale, offset)
    return blocks if torch.equal(blocks.matrix(), weight) else None


def _eight(weight: torch.Tensor) -> Blocks | None:
    grouped = weight.view(len(weight), -1, BLOCK)
    scale = (grouped.abs().amax(-1) / 127).half()
    q = (grouped / scale.float().clamp_min(1e-30)[..., None]).round().clamp(-127, 127)
    blocks = Blocks(q.to(torch.int8).flatten(1), scale, None)
    return blocks if torch.equal(blocks.matrix(), weight) else None
