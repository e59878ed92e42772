"""What is read from a checkpoint, or why it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from acip_core.errors import ModelError
from acip_core.model.base_model import load_base
from tests.support.tiny import calibration


def refused(source: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_base(str(source))
    message = str(caught.value)
    assert "\n" not in message and str(source) in message and len(message) < 600
    return message


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(calibration()).logits
