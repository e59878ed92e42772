"""Causal language models of transformers in which some linear layers are products of two thin matrices.

A copy of this file, with last lines that name the base model's class, is part of every exported model; so it needs
nothing but torch and transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D


class LowRankLinear(nn.Module):
    """`y = U V x + b` with V (rank, in_features) in `down` and U (out_features, rank) in `up`."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool):
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x))


def compressed(base: type[PreTrainedModel]) -> tuple[type[PreTrainedConfig], type[PreTrainedModel]]:
    """The configuration and the model of a base class whose layers named in `config.ranks` have these ranks."""
    base_config: Any = base.config_class

    class CompressedConfig(base_config):
        model_type = f"acip_{base_config.model_type}"  # so that nothing takes it for the base model
        ranks: Any = None

    class CompressedForCausalLM(base):  # type: ignore[misc, valid-type]
        config_class = CompressedConfig

        def __init__(self, config: PreTrainedConfig, *inputs: Any, **settings: Any):
            super().__init__(config, *inputs, **settings)
            for name, rank in (config.ranks or {}).items():
                layer = self.get_submodule(name)
                sizes = (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)
                self.set_submodule(name, LowRankLinear(*sizes, rank, layer.bias is not None))

    return CompressedConfig, CompressedForCausalLM
