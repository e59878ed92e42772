"""llama.cpp's block types, made by ggml's own quantizer and read back with the `gguf` package.

Rows of 576 are no multiple of 256, so the k-quants exist for `down_proj` alone. Errors in the layers are weighed by the
second moment of each column, llama.cpp's importance matrix.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from acip_core.progress import Steps

from .stored import Stored
from .subject import Peer, Subject, by_layer

_SUPER_BLOCK = 256  # columns of a k-quant's block
_SIZES = {
    "IQ4_NL": ("IQ4_NL", "IQ4_NL", None),
    "Q4_0": ("Q4_0", "Q4_0", None),
    "IQ4_NL, Q3_K in down_proj": ("IQ4_NL", "Q3_K", None),
    "IQ4_NL, Q2_K in down_proj": ("IQ4_NL", "Q2_K", None),
    "IQ4_NL, embedding too": ("IQ4_NL", "IQ4_NL", "IQ4_NL"),
    "IQ4_NL, Q2_K in down_proj, embedding IQ4_NL": ("IQ4_NL", "Q2_K", "IQ4_NL"),
}  # types of all layers, of those with rows of super-blocks, and of the tables


def llama_cpp_peers(subject: Subject) -> list[Peer]:
    """The files that llama.cpp can make of such a model below its own 8 bits.

    Raises:
        ModuleNotFoundError: ggml-py is missing.
    """
    try:
        import ggml
    except ModuleNotFoundError:
        message = "ggml-py is not installed; `pip install -r requirements-peers.txt` builds it in a minute."
        raise ModuleNotFoundError(message) from None

    def make(narrow: str, wide: str, tables: str | None) -> Steps[dict[str, Stored]]:
        moments = yield from subject.moments()

        def quantize(name: str, weight: torch.Tensor) -> Stored:
            kind = wide if weight.shape[1] % _SUPER_BLOCK == 0 else narrow
            return block_quantized(ggml, weight, kind, moments[name].diagonal())

        stored = yield from by_layer(subject, f"llama.cpp's {wide}", quantize)
        if tables is not None:
            stored |= {name: block_quantized(ggml, subject.table(name), tables) for name in subject.tables}
        return stored

    return [Peer("llama.cpp", setting, lambda kinds=kinds: make(*kinds)) for setting, kinds in _SIZES.items()]


def block_quantized(ggml: Any, weight: torch.Tensor, kind: str, importance: torch.Tensor | None = None) -> Stored:
    """A matrix (m, n) in one of ggml's block types.

    Args:
        ggml: the module.
        kind: as ggml names it.
        importance: (n,), weight of each column's errors.
    """
    rows, columns = weight.shape
    number = int(GGMLQuantizationType[kind])
    source = np.ascontiguousarray(weight.float().numpy())
    data = np.zeros(rows * ggml.ggml_row_size(number, columns), dtype=np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance.float().numpy())
    written = ggml.ggml_quantize_chunk(
        number, _floats(source), data.ctypes.data_as(ctypes.c_void_p), 0, rows, columns,
        None if weights is None else _floats(weights),
    )  # fmt: skip
    if written != data.nbytes:
        raise ValueError(f"ggml wrote {written} bytes of {kind} in place of {data.nbytes}")
    matrix = dequantize(data.reshape(rows, -1), GGMLQuantizationType[kind])
    return Stored({"blocks": torch.from_numpy(data)}, torch.from_numpy(np.ascontiguousarray(matrix)))


def _floats(array: np.ndarray) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
