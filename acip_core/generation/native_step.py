"""A `DecodeStep` in native code: one call for a token of every text, whatever their sizes."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.activations import SiLUActivation

from ..model.cut import BatchStates
from ..model.layers import ElasticLinear
from ..model.size_planner import DENSE
from .decode_step import DecodeStep, Norm, Rows
from .kept_cache import KeptLayer
from .native_program import ATTEND, GATE, NORM, ROTATE, NotNative, Program

_ROWS = 8  # that room for more comes in
_WIDEST = 512  # features of a head, as in decode_step.c
_TEXT = np.dtype([("keys", "u8"), ("values", "u8"), ("offset", "i8"), ("head_step", "i8"), ("position", "i8")])
_SHAPE = np.dtype(
    [("heads", "i4"), ("kv_heads", "i4"), ("features", "i4"), ("scale", "f4"), ("cos", "u8"), ("sin", "u8")]
)
_PASS = np.dtype([("rows", "i4"), ("_", "i4"), ("states", "u8"), ("texts", "u8"), ("shape", "u8")])


@dataclass(frozen=True)
class _Written:
    """A program as the native code takes it, and the weights it was written for."""

    weights: tuple[Any, ...]
    program: Program
    ops: NDArray[np.void]
    hidden: torch.Tensor
    logits: torch.Tensor


class NativeStep(DecodeStep):
    """As `DecodeStep`, on the CPU in float32, for texts whose cache has room of its own; others take the slow way.

    Raises:
        NotNative: the native code does not know something of this model.
    """

    def __init__(self, model: PreTrainedModel, library: ctypes.CDLL):
        super().__init__(model)
        scales = {block.scaling for block in self._blocks}
        known = (
            model.dtype == torch.float32
            and model.device.type == "cpu"
            and all(isinstance(block.activation, SiLUActivation | nn.SiLU) for block in self._blocks)
            and len(scales) == 1
            and self._angles_up_to(0)[0].shape[-1] == self._head_dim <= _WIDEST
            and self._head_dim % 2 == 0
        )
        if not known:
            raise NotNative
        self._library = library
        self._elastic = [layer for layer in model.modules() if isinstance(layer, ElasticLinear)]
        heads, kv_heads = (layer.out_features // self._head_dim for layer in (self._blocks[0].q, self._blocks[0].k))
        self._shape = np.array([(heads, kv_heads, self._head_dim, scales.pop(), 0, 0)], _SHAPE)
        self._written: _Written | None = None

    @torch.inference_mode()
    def __call__(self, ids: torch.Tensor, caches: Sequence[DynamicCache], rows: Sequence[Rows]) -> torch.Tensor:
        trained = bool(self._elastic) and self._elastic[0].adapter is not None
        if trained or not all(map(_has_room_of_its_own, caches)):
            return super().__call__(ids, caches, rows)
        count = len(ids)
        try:
            written = self._for_weights_in_place(count)
        except NotNative:
            return super().__call__(ids, caches, rows)
        written.hidden[:count] = self._embed(ids)
        states = self._states(written.program.layers, count)
        texts, _held = self._texts(caches, rows, count)
        cos, sin = self._angles_up_to(int(texts["position"].max()))
        self._shape["cos"], self._shape["sin"] = cos.data_ptr(), sin.data_ptr()
        whole = np.array([(count, 0, *(array.ctypes.data for array in (states, texts, self._shape)))], _PASS)
        self._library.acip_decode(
            _address(written.ops), ctypes.c_int64(len(written.ops)), _address(whole),
            ctypes.c_int32(torch.get_num_threads()),
        )  # fmt: skip
        return written.logits[:count].clone()

    def _states(self, layers: int, rows: int) -> NDArray[np.int32]:
        """(layers, rows) in force on this thread; tables that a plan does not know are dense."""
        found = np.full((layers, rows), DENSE, np.int32)
        ranking = self._elastic[0].cut.ranks if self._elastic else ()
        of_rows = ranking.rows if isinstance(ranking, BatchStates) else [cast(Sequence[int], ranking)] * rows
        for row, states in zip(range(rows), of_rows, strict=True):
            found[: len(states), row] = states
        return found

    def _texts(
        self, caches: Sequence[DynamicCache], rows: Sequence[Rows], count: int
    ) -> tuple[NDArray[np.void], list[NDArray[np.uint64]]]:
        """Where each row's keys and values lie, which get room for its tokens, and the tables that this points to."""
        texts, tables = np.zeros(count, _TEXT), []
        for cache, sequences in zip(caches, rows, strict=True):
            position = cache.get_seq_length()
            none = torch.empty(len(sequences), int(self._shape["kv_heads"][0]), 0, self._head_dim)
            taken = [layer.extend(len(sequences[0]), none, none) for layer in cast(list[KeptLayer], cache.layers)]
            keys, values = (np.array([pair[i].data_ptr() for pair in taken], np.uint64) for i in range(2))
            tables += [keys, values]
            row_step, head_step = taken[0][0].stride()[:2]
            for at, own in enumerate(sequences):
                for token, row in enumerate(own):
                    texts[row] = keys.ctypes.data, values.ctypes.data, at * row_step, head_step, position + token
        return texts, tables

    def _for_weights_in_place(self, rows: int) -> _Written:
        last = self._elastic[-1:]  # all layers' weights change together, those of the last one last
        banks = [bank for layer in (*last, self._head) if (bank := getattr(layer, "bank", None)) is not None]
        # What has been written holds all of them, so that no other has their id.
        weights = *((layer.down.data_ptr(), layer.up.data_ptr()) for layer in last), *((id(b), id(b.b)) for b in banks)
        if self._written is None or self._written.weights != weights or self._written.program.rows < rows:
            self._written = self._write(_ROWS * math.ceil(rows / _ROWS), weights)
        return self._written

    def _write(self, rows: int, weights: tuple[Any, ...]) -> _Written:
        program, block = Program(rows), self._blocks[0]
        hidden, x = (program.buffer(self._head.in_features) for _ in range(2))
        q, mixed = (program.buffer(block.q.out_features) for _ in range(2))
        k, v = (program.buffer(block.k.out_features) for _ in range(2))
        gate, up = (program.buffer(block.gate.out_features) for _ in range(2))
        logits = program.buffer(self._head.out_features)
        for index, block in enumerate(self._blocks):
            _add_norm(program, block.norm, hidden, x)
            program.products(x, {block.q: q, block.k: k, block.v: v})
            for norm, features in zip(block.head_norms or (), (q, k), strict=False):
                by_head = features.view(-1, self._head_dim)
                _add_norm(program, norm, by_head, by_head, len(by_head) // rows)
            program.add(ROTATE, q, q, keys=k, values=v, block=index)
            program.sync()
            program.add(ATTEND, q, mixed, block=index)
            program.sync()
            program.products(mixed, {block.o: hidden}, add=True)
            _add_norm(program, block.mlp_norm, hidden, x)
            program.products(x, {block.gate: gate, block.up: up})
            program.add(GATE, gate, gate, w=up)
            program.sync()
            program.products(gate, {block.down: hidden}, add=True)
        _add_norm(program, self._norm, hidden, x)
        program.products(x, {self._head: logits})
        return _Written(weights, program, program.finish(), hidden, logits)


def _has_room_of_its_own(cache: DynamicCache) -> bool:
    return all(type(layer) is KeptLayer for layer in cache.layers)


def _add_norm(program: Program, norm: Norm, x: torch.Tensor, y: torch.Tensor, heads: int = 1) -> None:
    program.add(NORM, x, y, w=norm.weight, least=float(norm.least) ** 2, heads=heads)
    program.sync()


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
