"""Types of llama.cpp: what each keeps of a matrix."""

from __future__ import annotations

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants

from acip_core.model.gguf_types import TYPES, quantized
from tests.support.tiny import (
    generator,
)


@pytest.mark.parametrize("kind", TYPES)
def test_types_keep_what_they_can(kind: Type) -> None:
    weight = torch.randn(6, 96, generator=generator())
    weight[1] = 0
    weight[2] = weight[2].abs()
    back = torch.from_numpy(quants.dequantize(quantized(weight, kind), kind).copy())
    most = {Type.Q8_0: 0.01, Type.Q5_1: 0.05, Type.Q5_0: 0.05, Type.Q4_1: 0.09, Type.IQ4_NL: 0.09}[kind]
    off = (back - weight).norm(dim=1) / weight.norm(dim=1).clamp_min(1e-9)
    assert float(off.max()) < most and torch.equal(back[1], weight[1])


def test_important_columns_lose_less() -> None:
    weight = torch.randn(40, 32, generator=generator())
    importance = torch.ones(32)
    importance[:4] = 1000.0
    off = {}
    for name, by in (("alike", None), ("by importance", importance)):
        data = quantized(weight, Type.IQ4_NL, by)
        off[name] = float((torch.from_numpy(quants.dequantize(data, Type.IQ4_NL).copy()) - weight)[:, :4].norm())
    assert off["by importance"] < 0.9 * off["alike"]
