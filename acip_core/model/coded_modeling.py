"""Causal language models of transformers whose weights are integers, entropy-coded in their files.

A copy of this file, with last lines that name the base model's class, is part of every model that is exported with
codes, beside copies of `modeling` and `entropy_decoding`; so it needs nothing but torch and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .entropy_decoding import decode, read_frequencies
from .modeling import QuantizedMatrix, compressed, stand_in

EIGHTHS = 8  # exponents count powers of 2^(1/8)
BLOCK = 32  # weights of a row that share a scale where a matrix is stored as published


class CodedMatrix(nn.Module):
    """A matrix W[i, j] = Z[i, j] · 2^((rows[i] + least[0] + columns[j] + least[1]) / 8), Z (m, n) entropy-coded.

    Attributes:
        stream: uint8, the bytes of Z.
        rows, columns, least: uint8 (m,) and (n,), int16 (2,).
        row_classes, column_classes: uint8 (⌈m / 2⌉,) and (⌈n / 2⌉,), two a byte, the even one in the upper half.
        z: int8 (m, n) once it is decoded; all matrices of a model are, at once, when the first of them runs.
        row_steps, column_steps: (m,) and (n,), the powers of 2, from then on.
    """

    stream: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    least: torch.Tensor
    row_classes: torch.Tensor
    column_classes: torch.Tensor
    z: torch.Tensor | None
    row_steps: torch.Tensor
    column_steps: torch.Tensor

    def __init__(self, m: int, n: int, stream: int, decode_all: Callable[[], None]):
        super().__init__()
        sizes = {"stream": stream, "rows": m, "columns": n, "row_classes": (m + 1) // 2, "column_classes": (n + 1) // 2}
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.uint8))
        self.register_buffer("least", torch.zeros(2, dtype=torch.int16))
        for name in ("z", "row_steps", "column_steps"):
            self.register_buffer(name, None, persistent=False)
        self._decode_all = decode_all

    def classes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the rows and the columns, uint8 (m,) and (n,)."""
        return _unpacked(self.row_classes, len(self.rows)), _unpacked(self.column_classes, len(self.columns))

    def set_integers(self, z: torch.Tensor, dtype: torch.dtype) -> None:
        """Run with these integers, int8 (m, n), in a model of this type."""
        rows, columns = self.rows.int() + self.least[0], self.columns.int() + self.least[1]
        shift = columns.max() // EIGHTHS * EIGHTHS  # the largest of columns lies at 1, so that float16 holds them all
        self.row_steps, self.column_steps = (
            torch.exp2(exponents.float() / EIGHTHS).to(dtype) for exponents in (rows + shift, columns - shift)
        )
        self.z = z.to(self.stream.device)

    def integers(self) -> torch.Tensor:
        """Z, decoded now if it is not yet."""
        if self.z is None:
            self._decode_all()
        assert self.z is not None
        return self.z

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """W x, (…, m), for x (…, n)."""
        z = self.integers()
        return F.linear(x * self.column_steps.to(x.dtype), z.to(x.dtype)) * self.row_steps.to(x.dtype)

    def lookup(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows of W, (…, n), of this type."""
        picked = self.integers()[ids].to(dtype)
        return picked * self.row_steps.to(dtype)[ids][..., None] * self.column_steps.to(dtype)


def _unpacked(packed: torch.Tensor, count: int) -> torch.Tensor:
    return torch.stack([packed >> 4, packed & 15], dim=-1).flatten()[:count]


class BlockMatrix(QuantizedMatrix):
    """A matrix exactly as published: in blocks of 32 with 4 bits, W = scale · code + offset, or 8, W = scale · code."""

    def __init__(self, m: int, n: int, bits: int):
        super().__init__(m, n, m if bits == 8 else 0, BLOCK, range(16), True)

    def forward(self) -> torch.Tensor:
        """The matrix in float32, in few passes over it: it is made for every product."""
        if hasattr(self, "codes8"):
            return (self.codes8.view(*self.scale8.shape, BLOCK) * self.scale8.float()[..., None]).flatten(1)
        values = self.scale4.new_empty(*self.codes4.shape, 2, dtype=torch.float32)
        values[..., 0], values[..., 1] = self.codes4 >> 4, self.codes4 & 15
        grouped = values.view(*self.scale4.shape, BLOCK).mul_(self.scale4.float()[..., None])
        return grouped.add_(self.offset4.float()[..., None]).flatten(1)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """W x, (…, m), for x (…, n)."""
        return F.linear(x, self().to(x.dtype))

    def lookup(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows of W, (…, n), of this type."""
        rows = {name: buffer[ids.flatten()] for name, buffer in self.named_buffers()}
        return functional_call(self, rows, ()).to(dtype).view(*ids.shape, -1)


class CodedAdapter(nn.Module):
    """B A with 8 bits a number, A (rank, n) and B (m, rank): int8, with a float16 scale for each row, each column."""

    a: torch.Tensor
    b: torch.Tensor
    a_scale: torch.Tensor
    b_scale: torch.Tensor

    def __init__(self, m: int, n: int, rank: int):
        super().__init__()
        for name, shape in (("a", (rank, n)), ("b", (m, rank))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int8))
            self.register_buffer(f"{name}_scale", torch.zeros(rank, dtype=torch.float16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = F.linear(x, self.a.to(x.dtype)) * self.a_scale.to(x.dtype) * self.b_scale.to(x.dtype)
        return F.linear(z, self.b.to(x.dtype))


class CodedLinear(nn.Module):
    """`y = W x + b`, and an adapter's `B A x` where the layer has one."""

    def __init__(self, weight: CodedMatrix | BlockMatrix, out_features: int, bias: bool, adapter: CodedAdapter | None):
        super().__init__()
        self.weight, self.adapter = weight, adapter
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.weight.product(x)
        if self.bias is not None:
            y = y + self.bias
        return y if self.adapter is None else y + self.adapter(x)


class CodedEmbedding(nn.Module):
    """Rows of W by token id, times the scale that some models' embeddings have."""

    def __init__(self, weight: CodedMatrix | BlockMatrix, scale: float, dtype: Callable[[], torch.dtype]):
        super().__init__()
        self.weight, self.scale, self._dtype = weight, scale, dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.weight.lookup(ids, self._dtype())
        return rows if self.scale == 1 else rows * self.scale


class SharedLinear(nn.Module):
    """A layer whose weight is another module's, such as a head that is tied to the embedding; its own is the bias."""

    def __init__(self, source: CodedLinear | CodedEmbedding, out_features: int, bias: bool):
        super().__init__()
        self._source = (source,)  # no submodule of this one: its tensors are stored once
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @property
    def weight(self) -> CodedMatrix | BlockMatrix:
        """The matrix."""
        return self._source[0].weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        source = self._source[0]
        y = source(x) if isinstance(source, CodedLinear) else self.weight.product(x)
        return y if self.bias is None else y + self.bias


def coded(base: type[PreTrainedModel]) -> tuple[type[PreTrainedConfig], type[PreTrainedModel]]:
    """The configuration and the model of a base class with codes in the place of the weights that `config.codes` names.

    It holds `frequencies`, the bytes of their table; `weights`, for each layer's and table's name either the bytes of
    its `stream` and the rank of its `adapter`, or the `bits` of its blocks; and `shared`, the name that each place
    without a matrix of its own has it from. All else is as `modeling.compressed` says.
    """
    compressed_config, compressed_model = compressed(base)

    class CompressedConfig(compressed_config):  # type: ignore[misc, valid-type]
        codes: Any = None

    class CompressedForCausalLM(compressed_model):  # type: ignore[misc, valid-type]
        config_class = CompressedConfig
        all_tied_weights_keys: dict[str, str]

        def __init__(self, config: Any, *inputs: Any, **settings: Any):
            super().__init__(config, *inputs, **settings)
            self.register_buffer("code_frequencies", torch.zeros(config.codes["frequencies"], dtype=torch.uint8))
            _put_codes(self)
            self.all_tied_weights_keys = _still_tied(self.all_tied_weights_keys, config.codes)

        def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict:
            return _still_tied(super().get_expanded_tied_weights_keys(all_submodels), self.config.codes)

        def _float(self) -> torch.dtype:
            return self.dtype

        def decode_codes(self) -> None:
            """Decode the integers of all matrices, if it is not done yet.

            Raises:
                ValueError: they are damaged; the message names the first such matrix.
            """
            _decode_all(self)

    return CompressedConfig, CompressedForCausalLM


def _put_codes(model: Any) -> None:
    """Put a module with codes in the place of each that `model.config.codes` names."""
    codes, before = model.config.codes, dict(model._replaced)
    for name in (*codes["weights"], *codes["shared"]):
        layer = model.get_submodule(name)
        if isinstance(layer, CodedLinear):  # the base class itself has one module in both places
            continue
        if not any(name.startswith(f"{outer}.") for outer in before):
            model._replaced[name] = layer
        model.set_submodule(name, _with_codes(model, name, layer))
    for name in model._replaced.keys() - before.keys():
        model._replaced[name] = stand_in(model._replaced[name])


def _with_codes(model: Any, name: str, layer: Any) -> nn.Module:
    codes = model.config.codes
    m, n = layer.weight.shape[::-1] if isinstance(layer, Conv1D) else layer.weight.shape
    bias = getattr(layer, "bias", None) is not None
    if name in codes["shared"]:
        source: Any = model.get_submodule(codes["shared"][name])
        return SharedLinear(source, m, bias and not isinstance(source, CodedLinear))
    form = codes["weights"][name]
    stored = "stream" in form
    weight = CodedMatrix(m, n, form["stream"], model.decode_codes) if stored else BlockMatrix(m, n, form["bits"])
    if isinstance(layer, nn.Embedding):
        return CodedEmbedding(weight, embedding_scale(layer), model._float)
    rank = form.get("adapter", 0)
    return CodedLinear(weight, m, bias, CodedAdapter(m, n, rank) if rank else None)


def _still_tied(pairs: dict[str, str], codes: dict[str, Any]) -> dict[str, str]:
    """Those pairs of tied weights' names where neither has codes."""
    gone = {*codes["weights"], *codes["shared"]}
    return {a: b for a, b in pairs.items() if not {n.rpartition(".")[0] for n in (a, b)} & gone}


@torch.no_grad()
def _decode_all(model: Any) -> None:
    found = {name: module for name, module in model.named_modules() if isinstance(module, CodedMatrix)}
    if all(matrix.z is not None for matrix in found.values()):
        return
    names, matrices = list(found), list(found.values())
    streams = [matrix.stream for matrix in matrices]
    rows, columns = zip(*(matrix.classes() for matrix in matrices), strict=True)
    with torch.inference_mode(False):
        try:
            frequencies = read_frequencies(model.code_frequencies).to(streams[0].device)
            integers = decode(streams, rows, columns, frequencies)
        except ValueError as error:
            reason = re.sub(r"matrix (\d+)", lambda found: names[int(found[1])], str(error))
            raise ValueError(f"The codes of this model cannot be read: {reason} Download it again.") from None
        for matrix, z in zip(matrices, integers, strict=True):
            matrix.set_integers(z, model.dtype)


def embedding_scale(layer: nn.Module) -> float:
    """What an embedding's rows are multiplied with: 1, except in classes of their own, such as Gemma's."""
    scale = getattr(layer, "scalar_embed_scale", getattr(layer, "embed_scale", 1.0))
    return float(scale) if scale is not None else 1.0
