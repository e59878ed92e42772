"""Names of the release before, which work for one release; `acip_core` warns of each and says what it is called now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..artifacts.loading import open_model
from ..model.quantization import FULL
from ..model.size_planner import DIRECTIONS, Plan
from ..progress import finish
from .model import AcipModel


def load(
    source: str | None = None,
    artifact: str | Path | None = None,
    precision: str = FULL,
    dtype: torch.dtype | str | None = None,
) -> Model:
    """`AcipModel.from_pretrained` of before."""
    return Model(finish(open_model(source, artifact, precision=precision, dtype=dtype)))


class Model(AcipModel):
    """`AcipModel` of before: `generate` was what `complete` is, `export` `save_pretrained`, and sizes of directions."""

    def generate(self, prompt: str, *settings: Any, **named: Any) -> str:  # type: ignore[override]
        """`AcipModel.complete`."""
        return self.complete(prompt, *settings, **named)

    def set_size(self, ratio: float, mode: str | None = DIRECTIONS) -> Plan:
        """`AcipModel.set_size` of directions."""
        return super().set_size(ratio, mode)

    def export(self, folder: str | Path, dense: bool = False, dtype: str | None = None) -> Path:
        """`AcipModel.save_pretrained`."""
        return self.save_pretrained(folder, dense=dense, dtype=dtype)
