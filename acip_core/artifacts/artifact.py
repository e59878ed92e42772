"""An artifact as a value, and the files of its folder, `precomputed/<model>/`.

acip.json                 format version, model and fingerprint, recipe, library versions, measured curves, and length
                          and SHA-256 of the files below
scores.safetensors        one vector (r,) per layer
basis.safetensors         what rebuilds the basis of the factorization (`model/second_moments.py`)
factors.safetensors       what training added to the factors (`model/trained_factors.py`), absent when they were not
adapter_config.json       PEFT's LoRA format, absent when no adapters were trained
adapter_model.safetensors
history.safetensors       loss and size ratio per training step, absent without training
README.md                 model card

Beside these lie what other commands measured or made of it: `completions.json`, `comparison.json`, `ablation.json`,
`parts.json`, `evaluation.json`, `peers.json`, `knowledge.safetensors`, the files of `coding`. Every JSON file but
PEFT's holds its digest (`storage/verified.py`), and so does what every size knows. Format 1 had no digests; it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..evaluation.curves import Curve
from ..model.elastic_model import AdapterWeights
from ..model.second_moments import Basis
from ..model.trained_factors import FactorUpdate
from ..paths import artifact_homes, artifacts_home, exists_here
from ..storage.atomic import recover

FORMAT_VERSION = 2
PEFT_PREFIX = "base_model.model."
FILES = (
    "scores.safetensors", "basis.safetensors", "factors.safetensors", "adapter_config.json",
    "adapter_model.safetensors", "history.safetensors", "README.md",
)  # fmt: skip


@dataclass(frozen=True)
class Artifact:
    """A score map with all that belongs to it.

    Attributes:
        name, source, fingerprint: the base model it was made from.
        recipe: how it was made, plain values.
        scores: (r,) per layer.
        adapters: per layer, PEFT's scaling multiplied into b; None when none were trained.
        history: named vectors over the training steps.
        gradients: second moments of the loss's gradients, of a two-sided basis.
        updates: what training added to the factors; None when they were not trained.
    """

    name: str
    source: str
    fingerprint: str
    recipe: dict[str, Any]
    curves: tuple[Curve, ...]
    scores: dict[str, torch.Tensor]
    basis: Basis
    adapters: dict[str, AdapterWeights] | None
    history: dict[str, torch.Tensor]
    gradients: Basis | None = None
    updates: dict[str, FactorUpdate] | None = None

    @property
    def pivoted(self) -> bool:
        """Whether its sizes count ranks as they are stored by pivots (`rank_costs`); older artifacts' do not."""
        return bool(self.recipe.get("pivoted"))

    @property
    def include(self) -> tuple[str, ...]:
        """Patterns of the layers that are compressed, as `target_layers`; none stands for all."""
        return tuple(self.recipe.get("include", ()))

    @property
    def exclude(self) -> tuple[str, ...]:
        """Patterns of the layers that are not compressed."""
        return tuple(self.recipe.get("exclude", ()))


def default_artifact(name: str) -> Path:
    """The folder of a model's artifact: the first there is in `paths.artifact_homes`, or where one would be written."""
    for home in artifact_homes():
        recover(home / name)
        if exists_here(home / name / "acip.json"):
            return home / name
    return artifacts_home() / name
