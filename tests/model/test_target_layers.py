"""Which layers are compressed: every family's linear maps, what patterns leave of them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from acip_core.errors import ModelError
from acip_core.model.base_model import BaseModel
from acip_core.model.target_layers import linearize, named_layers, target_layers
from tests.support.exports import logits
from tests.support.scored import elastic_of
from tests.support.tiny import tiny_base, tiny_model

SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


KINDS = dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3"), SPLIT) | {
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc", "c_proj"),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "pythia": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}


def test_targets_are_all_linear_maps_of_the_blocks(base: BaseModel, family: str) -> None:
    targets = target_layers(base.model)
    each = len(KINDS[family])
    assert sorted(name.rpartition(".")[2] for name in targets) == sorted(KINDS[family] * 2)
    assert all(f".{i // each}." in name for i, name in enumerate(targets))
    inside = sum(p.numel() for name, p in base.model.named_parameters() if p.ndim == 2 and ".0." in name)
    assert inside == sum(layer.weight.numel() for name, layer in targets.items() if ".0." in name)


def test_transposed_weights_become_linear_layers_of_the_same_model() -> None:
    plain, model = tiny_model("gpt2"), tiny_model("gpt2")
    with pytest.raises(ModelError, match="no linear layers"):
        target_layers(model)
    linearize(model)
    assert torch.equal(logits(model), logits(plain))
    state, expected = model.state_dict(), plain.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[key], expected[key]) for key in expected)
    other = tiny_model("gpt2", seed=1)
    model.load_state_dict(other.state_dict())
    assert torch.equal(logits(model), logits(other))


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ((), ("up_proj",), [kind for kind in SPLIT if kind != "up_proj"] * 2),
        (("self_attn",), (), SPLIT[:4] * 2),
        (("layers.1",), ("mlp", "?_proj"), ()),
        (("layers.1",), ("mlp", "[qk]_proj"), SPLIT[2:4]),
        (("gate_proj", "down*"), ("layers.0.mlp.down_proj",), ("gate_proj", "gate_proj", "down_proj")),
        (("model.layers.0.self_attn.q_proj",), (), SPLIT[:1]),
    ],
)
def test_patterns(include: tuple[str, ...], exclude: tuple[str, ...], left: tuple[str, ...]) -> None:
    model = tiny_model("llama")
    if not left:
        with pytest.raises(ModelError, match="leave none of LlamaForCausalLM's 14 linear layers"):
            target_layers(model, include, exclude)
    else:
        assert [name.rpartition(".")[2] for name in target_layers(model, include, exclude)] == list(left)


@pytest.mark.parametrize("pattern", ["up", "proj", "layers.2", "lm_head", "embed_tokens", "UP_PROJ", ""])
def test_a_pattern_that_matches_no_layer_is_refused(pattern: str) -> None:
    with pytest.raises(
        ModelError, match=r"No layer of .* '.*'; .*layers have names such as model.layers.1.mlp.down_pr"
    ):
        target_layers(tiny_model("llama"), exclude=(pattern,))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("lm_head", "lm_head lies outside the decoder blocks, and embeddings and the head are never compressed"),
        ("embed_tokens", "model.embed_tokens lies outside the decoder blocks"),
        ("input_layernorm", r"model.layers.0.input_layernorm is not a linear layer"),
        ("q_proj,v_proj", "give the option once for each pattern"),
    ],
)
def test_what_else_a_pattern_matches_is_said(pattern: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        target_layers(tiny_model("llama"), include=(pattern,))


def test_layers_that_are_left_out_stay_as_they_are() -> None:
    plain, elastic = tiny_model("llama"), elastic_of(tiny_model("llama"), exclude=("up_proj", "layers.0.self_attn"))
    assert torch.equal(logits(elastic.model), logits(plain))
    assert len(elastic.elastic_layers()) == 8
    plan = elastic.set_size(0.5)
    assert not torch.equal(logits(elastic.model), logits(plain))
    assert plan.base_parameters == sum(p.numel() for p in plain.parameters())
    assert plan.base_target_parameters == sum(layer.weight.numel() for layer in elastic.elastic_layers().values())
    assert plan.base_parameters - plan.parameters == plan.base_target_parameters - plan.target_parameters


def test_names_that_are_not_there() -> None:
    with pytest.raises(ModelError, match=r"no linear layer named model\.norm"):
        named_layers(tiny_model("llama"), ["model.norm", "model.layers.0.mlp.up_proj"])


def test_model_without_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match="decoder blocks"):
        target_layers(nn.Sequential(nn.Linear(2, 2)))


def test_blocks_are_the_list_that_holds_the_most() -> None:
    model = tiny_model("llama")
    model.extra = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    assert len(target_layers(model)) == 14


class _Router(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).softmax(-1)


class _Named(nn.Linear):
    """Of another class, but still `x Wᵀ + b`."""


def _packed() -> nn.Linear:
    layer = nn.Linear(32, 56)
    layer.weight = nn.Parameter(torch.zeros(896, 1, dtype=torch.uint8), requires_grad=False)
    return layer


def _eight_bit() -> nn.Linear:
    layer = nn.Linear(32, 56)
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    return layer


def _scaled() -> nn.Linear:
    return nn.utils.parametrizations.weight_norm(nn.Linear(32, 56))


def _hooked() -> nn.Linear:
    layer = nn.Linear(32, 56)
    layer.forward = lambda x: x  # as accelerate and PEFT replace it
    return layer


@pytest.mark.parametrize("make", [lambda: _Router(32, 56), _packed, _eight_bit, _scaled, _hooked])
def test_layers_that_only_derive_from_linear_are_no_targets(make: Callable[[], nn.Linear]) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj = make()
    linearize(model)
    assert set(target_layers(tiny_model("llama"))) - set(target_layers(model)) == {"model.layers.1.mlp.up_proj"}
    with pytest.raises(ModelError, match=r"no linear layer named model\.layers\.1\.mlp\.up_proj"):
        named_layers(model, ["model.layers.1.mlp.up_proj"])


def test_a_class_of_its_own_with_the_same_product_is_a_target() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj = _Named(32, 56)
    assert len(target_layers(model)) == 14


def _one_module(first: nn.Module, second: nn.Module) -> None:
    second.mlp = first.mlp


def _one_weight(first: nn.Module, second: nn.Module) -> None:
    for kind in SPLIT[4:]:
        getattr(second.mlp, kind).weight = getattr(first.mlp, kind).weight


@pytest.mark.parametrize("share", [_one_module, _one_weight])
def test_shared_layers_are_cut_and_counted_once(share: Callable[[nn.Module, nn.Module], None]) -> None:
    plain, model = tiny_model("llama"), tiny_model("llama")
    for shared in (plain, model):
        share(*shared.model.layers)
    linearize(model)
    assert len(target_layers(model)) == 11
    elastic = elastic_of(model)
    assert torch.equal(logits(elastic.model), logits(plain))
    assert list(elastic.model.state_dict()) == list(plain.state_dict())
    plan = elastic.set_size(0.5)
    assert plan.base_parameters == sum(p.numel() for p in plain.parameters())
    first, second = (block.mlp.up_proj for block in elastic.model.model.layers)
    assert first is second
    assert torch.isfinite(logits(elastic.model)).all() and not torch.equal(logits(elastic.model), logits(plain))


def test_a_layer_that_shares_its_weight_with_something_else_stays_as_it_is() -> None:
    base = tiny_base()
    base.model.copied = nn.Embedding(56, 32)
    base.model.copied.weight = base.model.model.layers[1].mlp.up_proj.weight
    assert set(target_layers(tiny_base().model)) - set(target_layers(base.model)) == {"model.layers.1.mlp.up_proj"}
