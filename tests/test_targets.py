"""Which layers are compressed: every family's linear maps, what patterns leave of them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

from acip_core.base import BaseModel
from acip_core.basis import measure_basis
from acip_core.elastic import ElasticModel, build_elastic
from acip_core.errors import ModelError
from acip_core.factorize import factorize
from acip_core.progress import finish
from acip_core.scoring.fisher import fisher_densities
from acip_core.targets import linearize, named_layers, target_layers
from tests.tiny import calibration, tiny_base, tiny_model, tiny_tokenizer

SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
KINDS = dict.fromkeys(("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3"), SPLIT) | {
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc", "c_proj"),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "pythia": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(calibration()).logits


def elastic_of(model: PreTrainedModel, exclude: tuple[str, ...] = ()) -> ElasticModel:
    """Factorized and scored in the layers that are left."""
    targets = target_layers(model, exclude=exclude)
    weights = {name: layer.weight.detach() for name, layer in targets.items()}
    factors = finish(factorize(weights, finish(measure_basis(model, calibration(), rank=16, layers=targets))))
    scores = finish(fisher_densities(model, factors, calibration()))
    return finish(build_elastic(BaseModel(model, tiny_tokenizer(), "tiny", "memory"), factors, scores))


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
        ModelError, match=r"No layer of .* '.*'; layers have names such as model.layers.1.mlp.down_proj"
    ):
        target_layers(tiny_model("llama"), exclude=(pattern,))


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


@pytest.fixture
def mixtral() -> MixtralForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    more = {"vocab_size": 128, "num_key_value_heads": 2, "num_local_experts": 4, "sliding_window": None}
    return MixtralForCausalLM(MixtralConfig(**sizes, **more)).eval()


@pytest.mark.parametrize("options", [{}, {"include": ("mlp",)}, {"exclude": ("o_proj",)}])
def test_fused_experts_are_refused(mixtral: MixtralForCausalLM, options: dict) -> None:
    with pytest.raises(ModelError, match=r"fused 3-D tensors \(model.layers.0.mlp.experts.*`--exclude experts`\.$"):
        target_layers(mixtral, **options)


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


@pytest.mark.parametrize(("every", "named"), [(2, r"experts.0 reads 16 of 32"), (1, r"experts.1 reads 0 of 32")])
def test_layers_that_do_not_read_every_token_are_refused(every: int, named: str) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp = _Experts(every)
    with pytest.raises(ModelError, match=rf"{named} tokens.*--exclude model.layers.1.mlp.experts.\d`"):
        finish(measure_basis(model, calibration()))
    finish(measure_basis(model, calibration(), layers=target_layers(model, exclude=("experts",))))


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
