"""Tiny models with codes: moments of a few windows, codes at all levels, random adapters, made-up measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from acip_core.artifacts.coding import CodedCurve, CodedPoint, Coding, in_eight_bits, write_coding
from acip_core.artifacts.loading import Loaded, install_coding, open_model
from acip_core.artifacts.peers import PeerPoint, Peers
from acip_core.model.base_model import fingerprint
from acip_core.model.code_cache import cached_codes
from acip_core.model.coded_states import coded_matrices, install_coded_adapters, install_codes
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.elastic_model import AdapterWeights, Calibration, ElasticModel
from acip_core.model.size_planner import BITS, BOTH
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


def with_coding(loaded: Loaded, curves: bool = True) -> Loaded:
    """The same opened model with operating points, and with made-up measurements of both modes; no codes yet."""
    elastic = loaded.elastic
    layers = elastic.elastic_layers()
    moments = finish(measure_coding_moments(elastic.model, calibration(), list(layers), loaded.artifact.basis))
    weights = {name: layer.weight.detach() for name, layer in layers.items()}
    measured = tuple(_curve(mode, corpus) for mode in (BOTH, BITS) for corpus in ("c4", "wikipedia")) if curves else ()
    coding = Coding(fingerprint(weights), moments, Calibration(), measured, None, {})
    return replace(loaded, coding=coding)


def save_with_coding(model: Path, artifact: Path) -> None:
    """Add to a saved tiny model's artifact operating points and small adapters of coded layers."""
    loaded = with_coding(finish(open_model(str(model), artifact)))
    assert loaded.coding is not None
    coding = replace(loaded.coding, adapters=small_adapters(loaded.elastic, 2))
    write_coding(coding, artifact, loaded.artifact.basis)


def made_up_peers() -> Peers:
    """Two sizes of one quantizer and one of another, of about the bytes of a tiny model."""
    sizes = (("gptq", "4 bits", 50_000, 1.2), ("gptq", "3 bits", 40_000, 1.6), ("rtn", "4 bits", 52_000, 2.0))
    points = tuple(
        PeerPoint(method, setting, corpus, size, worse * base, 0.1, 0.9, 0.5)
        for method, setting, size, worst in sizes
        for corpus, base, worse in (("c4", 30.0, worst - 0.1), ("wikipedia", 20.0, worst))
    )
    return Peers({}, {"c4": 30.0, "wikipedia": 20.0}, points)


def opened_with_codes(loaded: Loaded, curves: bool = True) -> Loaded:
    """As `with_coding`, with its codes made and installed."""
    coded = with_coding(loaded, curves)
    assert finish(install_coding(coded))
    return coded


def _curve(mode: str, corpus: str) -> CodedCurve:
    base = 30.0 if corpus == "c4" else 20.0
    sizes = {60_000: 1.01, 45_000: 1.1, 35_000: 1.5}
    points = tuple(CodedPoint(size, size / 120_000, worse - 1, base * worse, 0.1, 0.9) for size, worse in sizes.items())
    return CodedCurve(mode, corpus, 8176, base, points)
