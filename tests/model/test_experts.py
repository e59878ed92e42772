"""Layers of which each token runs through a part: fused ones, experts, and what an error advises."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from acip_core.errors import ModelError
from acip_core.model.second_moments import measure_basis
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from tests.support.device import DEVICE
from tests.support.exports import logits
from tests.support.scored import elastic_of
from tests.support.tiny import calibration, tiny_model

SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def mixtral() -> MixtralForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    more = {"vocab_size": 128, "num_key_value_heads": 2, "num_local_experts": 4, "sliding_window": None}
    return MixtralForCausalLM(MixtralConfig(**sizes, **more)).eval()


@pytest.mark.parametrize(
    ("options", "way_out"),
    [
        ({}, "`--exclude experts`"),
        ({"include": ("mlp",)}, "choose other layers"),
        ({"exclude": ("o_proj",)}, "`--exclude experts`"),
    ],
)
def test_fused_experts_are_refused(mixtral: MixtralForCausalLM, options: dict, way_out: str) -> None:
    with pytest.raises(ModelError, match=rf"fused 3-D tensors \(model.layers.0.mlp.experts.*{way_out}\.$"):
        target_layers(mixtral, **options)


def advised(error: pytest.ExceptionInfo[ModelError]) -> tuple[str, ...]:
    return tuple(re.findall(r"--exclude ([^ `]+)", str(error.value)))


class _Gates(nn.Module):
    """Fused matrices of names that say nothing of experts, a linear layer beside them, and a vector stored in 3-D."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.ones(2, 32, 32)), nn.Parameter(torch.ones(2, 32, 32))
        self.down_proj, self.mix = nn.Linear(32, 32), nn.Parameter(torch.ones(1, 1, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(x @ self.first[0] @ self.second[1] * self.mix)


def test_the_advice_about_fused_tensors_leads_out() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp = _Gates()
    with pytest.raises(ModelError) as error:
        target_layers(model)
    assert advised(error) == ("first", "second")
    assert len(target_layers(model, exclude=advised(error))) == 12


def test_vectors_stored_as_3d_tensors_are_no_fused_weights() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp = _Gates()
    del model.model.layers[1].mlp.first, model.model.layers[1].mlp.second
    assert len(target_layers(model)) == 12


@pytest.mark.parametrize("options", [{"exclude": ("experts",)}, {"include": ("self_attn",)}])
def test_without_the_experts_the_rest_is_compressed(mixtral: MixtralForCausalLM, options: dict) -> None:
    assert [name.rpartition(".")[2] for name in target_layers(mixtral, **options)] == list(SPLIT[:4]) * 2


def test_a_mixture_of_experts_at_any_size(mixtral: MixtralForCausalLM) -> None:
    expected, whole = logits(mixtral), sum(p.numel() for p in mixtral.parameters())
    elastic = elastic_of(mixtral, exclude=("experts",))
    assert torch.equal(logits(elastic.model), expected)
    plan = elastic.set_size(0.5)
    assert plan.base_parameters == whole and plan.ratio == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(logits(elastic.model), expected)


class _Experts(nn.Module):
    """Two experts of which each reads the tokens it is given."""

    def __init__(self, every: int):
        super().__init__()
        self.every = every
        self.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        y[:, :: self.every] = self.experts[0](x[:, :: self.every])
        return y


@pytest.mark.parametrize(
    ("every", "named", "advice"),
    [
        (2, r"experts.0 \(and 1 more like it\) reads 16 of 32", ("experts",)),
        (1, r"experts.1 reads 0 of 32", ("experts.1",)),
    ],
)
def test_all_layers_that_do_not_read_every_token_are_refused_at_once(
    every: int, named: str, advice: tuple[str, ...]
) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp = _Experts(every).to(DEVICE)
    with pytest.raises(ModelError, match=f"{named} tokens") as error:
        finish(measure_basis(model, calibration()))
    assert advised(error) == advice
    finish(measure_basis(model, calibration(), layers=target_layers(model, exclude=advice)))


def test_a_model_whose_chosen_layers_all_read_a_part() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp = _Experts(2).to(DEVICE)
    with pytest.raises(ModelError, match="no chosen layer does, so nothing can be compressed"):
        finish(measure_basis(model, calibration(), layers=target_layers(model, include=("experts",))))
