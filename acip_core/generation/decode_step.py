"""A few tokens of each text through a decoder of the Llama kind, by the fewest operations that there are for them.

Reading the weights is all that a token should take; a general model's forward spends as long on masks, positions,
copies of caches and layers of calls. This one computes the same numbers from the same modules:

    h ─ norm ─ q, k, v ─ rotary ─ attention over each text's own cache ─ o ─ + ─ norm ─ down(act(gate) · up) ─ + ─▶ h
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from ..model.kernels import Linear, TokenProduct, pair, token_product


class Norm:
    """x w / √(mean x² + ε) as x (w √n) / √(|x|² + n ε), which takes half the operations."""

    def __init__(self, module: Any):
        n = len(module.weight)
        self.weight = module.weight.detach() * n**0.5
        self.least = self.weight.new_tensor((n * module.variance_epsilon) ** 0.5)


@dataclass(frozen=True)
class _Block:
    norm: Norm
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    o: nn.Linear
    mlp_norm: Norm
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    activation: nn.Module
    scaling: float
    head_norms: tuple[Norm, Norm] | None


Rows = Sequence[Sequence[int]]  # of a pass, that are a cache's sequences, token by token


class DecodeStep:
    """The next tokens of several texts, each with a cache of its own, at the size in force on this thread."""

    def __init__(self, model: PreTrainedModel):
        decoder = cast(Any, model).model
        self._embed, self._norm, self._head = decoder.embed_tokens, Norm(decoder.norm), cast(Any, model).lm_head
        self._rotary, self._blocks = decoder.rotary_emb, [_block(layer) for layer in decoder.layers]
        self._head_dim: int = decoder.layers[0].self_attn.head_dim
        self._angles: tuple[torch.Tensor, torch.Tensor] | None = None

    @torch.inference_mode()
    def __call__(self, ids: torch.Tensor, caches: Sequence[DynamicCache], rows: Sequence[Rows]) -> torch.Tensor:
        """Logits (rows, vocabulary).

        Args:
            ids: (rows,), the tokens that follow what the caches hold.
            caches: of the texts; each takes its new tokens in.
            rows: of `ids`, for each cache.
        """
        cos, sin = self._rotation([cache.get_seq_length() for cache in caches], rows, len(ids))
        places = [torch.tensor(own, device=ids.device) for own in rows] if len(ids) > 1 else []
        apply = _to_token if len(ids) == 1 else _to_tokens
        hidden = self._embed(ids)
        width = len(hidden), -1, self._head_dim
        for index, block in enumerate(self._blocks):
            x = _normalized(block.norm, hidden)
            q, k, v = (y.view(width) for y in apply(x, block.q, block.k, block.v))
            if block.head_norms is not None:
                q, k = (_normalized(norm, x) for norm, x in zip(block.head_norms, (q, k), strict=True))
            heads = _rotated(torch.cat([q, k], 1), cos, sin)
            q, k = heads.split([q.shape[1], k.shape[1]], 1)
            mixed = self._attend(q, k, v, [cache.layers[index] for cache in caches], places, block.scaling)
            hidden = hidden + apply(mixed, block.o)[0]
            gate, up = apply(_normalized(block.mlp_norm, hidden), block.gate, block.up)
            hidden = hidden + apply(block.activation(gate) * up, block.down)[0]
        return apply(_normalized(self._norm, hidden), self._head)[0]

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layers: Sequence[Any],
        places: Sequence[torch.Tensor],
        scale: float,
    ) -> torch.Tensor:
        """(rows, heads · features) for q, k, v (rows, heads, features)."""
        if not places:
            keys, values = layers[0].update(k[:, :, None], v[:, :, None])
            return _attention(q[:, None], keys, values, scale).flatten(1)
        mixed = q.new_empty(len(q), q.shape[1] * q.shape[2])
        for layer, own in zip(layers, places, strict=True):
            keys, values = layer.update(k[own].transpose(1, 2), v[own].transpose(1, 2))
            mixed[own] = _attention(q[own], keys, values, scale)
        return mixed

    def _rotation(self, lengths: Sequence[int], rows: Sequence[Rows], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines (rows, 1, features) of the new tokens' positions."""
        positions = [0] * count
        for length, sequences in zip(lengths, rows, strict=True):
            for own in sequences:
                for token, row in enumerate(own):
                    positions[row] = length + token
        cos, sin = self._angles_up_to(max(positions))
        at = torch.tensor(positions, device=cos.device)
        return cos[at, None], sin[at, None]

    def _angles_up_to(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines (positions, features), this position's among them."""
        if self._angles is None or position >= len(self._angles[0]):
            self._angles = self._table(max(256, 2 * position))
        return self._angles

    def _table(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self._norm.weight
        cos, sin = self._rotary(weight[None, None], torch.arange(tokens, device=weight.device)[None])
        half = sin.shape[-1] // 2
        return cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)


def _block(layer: Any) -> _Block:
    attention, mlp = layer.self_attn, layer.mlp
    return _Block(
        Norm(layer.input_layernorm), attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
        Norm(layer.post_attention_layernorm), mlp.gate_proj, mlp.up_proj, mlp.down_proj, mlp.act_fn, attention.scaling,
        (Norm(attention.q_norm), Norm(attention.k_norm)) if hasattr(attention, "q_norm") else None,
    )  # fmt: skip


def _to_token(x: torch.Tensor, *layers: nn.Linear) -> list[torch.Tensor]:
    """What layers make of one token's features x (1, features)."""
    both = pair(x)
    return [_product(layer)(x, both) for layer in layers]


def _product(layer: nn.Linear) -> TokenProduct:
    return layer.token_product() if isinstance(layer, Linear) else token_product(layer.weight, layer.bias)


def _to_tokens(x: torch.Tensor, *layers: nn.Linear) -> list[torch.Tensor]:
    return [layer.forward(x) for layer in layers]


def _normalized(norm: Norm, hidden: torch.Tensor) -> torch.Tensor:
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    return hidden.mul(norm.weight).div_(torch.hypot(length, norm.least))


def _rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Heads (sequences, heads, features) at their positions; the sines have the sign of the half they are added to."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)


def _attention(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """(sequences, tokens, heads · features) for the last tokens' q (sequences, tokens, heads, features)."""
    new, all = q.shape[1], keys.shape[2]
    seen = torch.ones(new, all, dtype=torch.bool, device=q.device).tril(all - new) if new > 1 else None
    mixed = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, seen, scale=scale, enable_gqa=True)
    return mixed.transpose(1, 2).flatten(2)
