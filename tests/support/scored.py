"""An elastic model of whatever layers are left of a model, scored by Fisher information."""

from __future__ import annotations

from transformers import PreTrainedModel

from acip_core.model.base_model import BaseModel
from acip_core.model.elastic_model import ElasticModel, build_elastic
from acip_core.model.factorization import factorize
from acip_core.model.second_moments import measure_basis
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from acip_core.scoring.fisher import fisher_densities
from tests.support.tiny import calibration, tiny_tokenizer


def elastic_of(model: PreTrainedModel, exclude: tuple[str, ...] = ()) -> ElasticModel:
    """Factorized and scored in the layers that are left."""
    targets = target_layers(model, exclude=exclude)
    weights = {name: layer.weight.detach() for name, layer in targets.items()}
    factors = finish(factorize(weights, finish(measure_basis(model, calibration(), rank=16, layers=targets))))
    scores = finish(fisher_densities(model, factors, calibration()))
    return finish(build_elastic(BaseModel(model, tiny_tokenizer(), "tiny", "memory"), factors, scores))
