"""What `precompute` can make of a model whose weights stay in their files: basis, order, curves."""

from __future__ import annotations

from ..errors import ModelError
from ..model.base_model import BaseModel
from ..model.offloading import is_offloaded
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
    if wanted and is_offloaded(base.model):
        raise ModelError(
            f"The weights of {base.source} stay on disk, where {wanted[0]} cannot be made; use --quick --no-codes, or "
            "a device that holds the model (ACIP_DEVICE=cpu or cuda, several with `accelerate launch`)."
        )
