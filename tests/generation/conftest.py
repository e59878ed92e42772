"""An engine with a tiny model."""

from __future__ import annotations

import pytest

from acip_core.generation.engine import Engine
from acip_core.model.elastic_model import ElasticModel
from tests.support.tiny import tiny_elastic


@pytest.fixture(scope="module")
def elastic() -> ElasticModel:
    return tiny_elastic("llama", adapter_rank=2)


@pytest.fixture
def engine(elastic: ElasticModel) -> Engine:
    return Engine(elastic)
