"""Tiny models with codes: moments of a few windows, codes at all levels, random adapters."""

from __future__ import annotations

import torch

from acip_core.artifacts.coding import in_eight_bits
from acip_core.model.base_model import fingerprint
from acip_core.model.code_cache import cached_codes
from acip_core.model.coded_states import Calibration, coded_matrices, install_coded_adapters, install_codes
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.elastic_model import AdapterWeights, ElasticModel
from acip_core.progress import finish
from tests.support.tiny import calibration, generator, tiny_basis, tiny_elastic


def with_codes(elastic: ElasticModel, adapter_rank: int = 0) -> ElasticModel:
    """Install codes, and adapters of coded layers that repair half of what is lost, where a rank is given."""
    layers = list(elastic.elastic_layers())
    basis = tiny_basis(elastic.base)
    moments = finish(measure_coding_moments(elastic.model, calibration(), layers, basis))
    matrices = coded_matrices(elastic, moments.tables)
    coded = finish(cached_codes(matrices, moments, fingerprint(matrices)))
    install_codes(elastic, coded, Calibration(repaired=0.5))
    if adapter_rank:
        install_coded_adapters(elastic, small_adapters(elastic, adapter_rank))
    return elastic


def coded_elastic(family: str = "llama", adapter_rank: int = 0) -> ElasticModel:
    """A tiny elastic model with codes."""
    return with_codes(tiny_elastic(family), adapter_rank)


def small_adapters(elastic: ElasticModel, rank: int, seed: int = 5) -> dict[str, AdapterWeights]:
    """Random adapters whose numbers have 8 bits, as those that a file holds."""
    source, adapters = generator(seed), {}
    for name, layer in elastic.elastic_layers().items():
        m, n = layer.weight.shape
        a, b = torch.randn(rank, n, generator=source) * n**-0.5, torch.randn(m, rank, generator=source) * 0.05
        adapters[name] = in_eight_bits(AdapterWeights(a, b))
    return adapters
