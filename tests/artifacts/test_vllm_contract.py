"""What vLLM's Transformers backend asks of a model's code (its "Writing custom models"), acted out with transformers.

It makes `auto_map.AutoModel` on the meta device, puts linear layers of its own in the place of `nn.Linear`, fills
parameters by name, and runs attention through an implementation that it registers, without a cache.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from acip_core.artifacts.export import export
from acip_core.progress import finish
from tests.support.tiny import tiny_artifact, tiny_elastic

CODE = {"trust_remote_code": True}


class OwnLinear(nn.Module):
    """A linear layer of the runtime, which knows nothing but its weight."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


@pytest.mark.parametrize("pivoted", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_an_export_runs_as_vllm_runs_it(family: str, pivoted: bool, tmp_path: Path) -> None:
    elastic = tiny_elastic(family, pivoted=pivoted)
    plan = elastic.planner.at_ratio(0.5)
    folder = str(finish(export(elastic, tiny_artifact(elastic.base, 0), plan, tmp_path / "half")))
    files = load_file(Path(folder) / "model.safetensors")
    whole = AutoModelForCausalLM.from_pretrained(folder, **CODE).eval()
    ids = torch.arange(3, 15)[None]  # shorter than a sliding window, which vLLM applies itself
    wanted = whole(ids, use_cache=False).logits

    config: Any = AutoConfig.from_pretrained(folder, **CODE)
    assert get_class_from_dynamic_module(config.auto_map["AutoModel"], folder).is_backend_compatible()
    seen = []

    def attention(module: nn.Module, *inputs: Any, **settings: Any) -> Any:
        seen.append(settings["attention_instances"][module.layer_idx])
        assert module.is_causal and not settings.get("past_key_values")
        return sdpa_attention_forward(module, *inputs, **settings)

    ALL_ATTENTION_FUNCTIONS.register("acted_out", attention)
    config._attn_implementation = "acted_out"
    with torch.device("meta"):
        model = AutoModel.from_config(config, dtype=torch.float32, **CODE).eval()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            model.set_submodule(name, OwnLinear(layer))
    model.to_empty(device="cpu")
    parameters = dict(model.named_parameters())
    of_model = {name.removeprefix("model."): t for name, t in files.items() if not name.startswith("lm_head.")}
    assert set(of_model) == set(parameters), "vLLM fills parameters alone, and all of them"
    for name, tensor in of_model.items():
        parameters[name].data = tensor.to(torch.float32)  # in the type that all of them have there
    for name, buffer in whole.model.named_buffers():
        model.get_submodule(name.rpartition(".")[0])._buffers[name.rpartition(".")[2]] = buffer
    hidden = model(
        input_ids=ids,
        position_ids=torch.arange(ids.shape[1])[None],
        use_cache=False,
        attention_instances={0: "first", 1: "second"},
        return_dict=False,
    )[0]
    logits = whole.get_output_embeddings()(hidden)
    if getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert seen == ["first", "second"]


def test_tensor_parallel_plan_splits_what_can_be_split(tmp_path: Path) -> None:
    """Every layer has one line, which matches none of its other factor; pivots leave none."""
    elastic = tiny_elastic("llama")
    plan = elastic.planner.at_ratio(0.5)
    folder = finish(export(elastic, tiny_artifact(elastic.base, 0), plan, tmp_path / "half"))
    model = AutoModelForCausalLM.from_pretrained(folder, **CODE)
    split = model.config.base_model_tp_plan
    cut = json.loads((folder / "config.json").read_text())["ranks"]
    layers = [name.removeprefix("model.") for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    styles = {layer: next((s for p, s in split.items() if re.match(p, layer)), None) for layer in layers}
    for name in cut:
        place = name.removeprefix("model.")
        by_input = place.endswith(("o_proj", "down_proj"))
        assert styles[f"{place}.down"] == ("rowwise" if by_input else None)
        assert styles[f"{place}.up"] == (None if by_input else "colwise")
    assert {styles[n] for n in layers if "proj" in n and not n.endswith((".up", ".down"))} <= {"rowwise", "colwise"}
    pivoted = tiny_elastic("llama", pivoted=True)
    small = pivoted.planner.at_ratio(0.5)
    folder = finish(export(pivoted, tiny_artifact(pivoted.base, 0), small, tmp_path / "pivots"))
    assert AutoConfig.from_pretrained(folder, **CODE).base_model_tp_plan is None
