"""What `precompute` can make of a model whose weights stay in their files: basis, order, curves."""

from __future__ import annotations

from ..model.base_model import BaseModel
from ..model.offloading import check_in_memory
from ..model.quantization import FULL
from .recipes import PrecomputeConfig


def check_offloaded(base: BaseModel, recipe: PrecomputeConfig) -> None:
    """Refuse what a model whose weights stay in their files cannot do.

    Raises:
        ModelError: the recipe trains it, or needs gradients of all of it at once.
    """
    parts: dict[str, object] = {
        "trained factors": recipe.trains_factors,
        "adapters": recipe.adapters,
        "a pruning run": recipe.pruning,
        "Fisher information": recipe.scorer != "predicted",
        "quantized weights": recipe.quantized != FULL,
        "codes": recipe.codes,
        "comparison lines": recipe.comparisons,
    }
    wanted = [name for name, is_wanted in parts.items() if is_wanted]
    if wanted:
        check_in_memory(base.model, wanted[0], "--quick --no-codes, several devices with `accelerate launch`, or ")
