"""Random models of any kind, and what an exported folder holds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from acip_core.artifacts.artifact import Artifact
from acip_core.artifacts.export import export
from acip_core.model.base_model import BaseModel
from acip_core.model.elastic_model import ElasticModel, build_elastic
from acip_core.model.target_layers import linearize
from acip_core.progress import finish
from tests.support.device import DEVICE
from tests.support.tiny import (
    VOCABULARY,
    calibration,
    generator,
    random_scores,
    tiny_artifact,
    tiny_base,
    tiny_factors,
    tiny_tokenizer,
)

LAYERS: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 32},
    **{"intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "max_position_embeddings": 256,
}


def base_of(kind: str, **settings: Any) -> BaseModel:
    """A random model of any kind that transformers knows."""
    config = AutoConfig.for_model(kind, **{**LAYERS, **settings})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    source = generator()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=source) * parameter.shape[-1] ** -0.5)
    return BaseModel(model.to(DEVICE), tiny_tokenizer(), f"tiny-{kind}", "memory")


def elastic_of(base: BaseModel, exclude: tuple[str, ...] = ()) -> ElasticModel:
    linearize(base.model)
    return finish(build_elastic(base, tiny_factors(base, exclude), random_scores(base, exclude=exclude)))


@torch.inference_mode()
def logits(model: PreTrainedModel) -> torch.Tensor:
    """Of a model that was read anywhere, computed where tests run."""
    return model.to(DEVICE)(calibration()).logits


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@cache
def described() -> Artifact:
    """What the card of an export is written from; any will do."""
    return tiny_artifact(tiny_base())


def exported(elastic: ElasticModel, folder: Path, ratio: float, dense: bool = False, shard_bytes: int = 20_000) -> int:
    """Export and return the bytes that were promised."""
    plan = elastic.planner.at_ratio(ratio)
    finish(export(elastic, described(), plan, folder, dense, shard_bytes))
    return plan.bytes


def bytes_of(folder: Path) -> int:
    return sum(tensor.nbytes for tensor in stored(folder).values())
