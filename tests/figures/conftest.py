"""An artifact with all that can be drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest

from acip_core.artifacts.artifact import Artifact
from tests.support.pictures import pruning_history
from tests.support.tiny import tiny_artifact, tiny_base


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    made = tiny_artifact(tiny_base())
    return replace(made, history=made.history | pruning_history())
