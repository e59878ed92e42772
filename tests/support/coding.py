"""Operating points for tiny models: moments of random windows, and codes in the cache folder of the test."""

from __future__ import annotations

from dataclasses import replace

from acip_core.artifacts.coding import CodedCurve, CodedPoint, Coding
from acip_core.artifacts.loading import Loaded, install_coding
from acip_core.model.base_model import fingerprint
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.elastic_model import Calibration
from acip_core.model.size_planner import BITS, BOTH
from acip_core.progress import finish
from tests.support.tiny import calibration


def with_coding(loaded: Loaded, curves: bool = True) -> Loaded:
    """The same opened model with operating points, and with made-up measurements of both modes; no codes yet."""
    elastic = loaded.elastic
    layers = elastic.elastic_layers()
    moments = finish(measure_coding_moments(elastic.model, calibration(), list(layers), loaded.artifact.basis))
    weights = {name: layer.weight.detach() for name, layer in layers.items()}
    measured = tuple(_curve(mode, corpus) for mode in (BOTH, BITS) for corpus in ("c4", "wikipedia")) if curves else ()
    coding = Coding(fingerprint(weights), moments, Calibration(), measured, None, {})
    return replace(loaded, coding=coding)


def with_codes(loaded: Loaded, curves: bool = True) -> Loaded:
    """As `with_coding`, with its codes made and installed."""
    coded = with_coding(loaded, curves)
    assert finish(install_coding(coded))
    return coded


def _curve(mode: str, corpus: str) -> CodedCurve:
    base = 30.0 if corpus == "c4" else 20.0
    sizes = {60_000: 1.01, 45_000: 1.1, 35_000: 1.5}
    points = tuple(CodedPoint(size, size / 120_000, worse - 1, base * worse, 0.1, 0.9) for size, worse in sizes.items())
    return CodedCurve(mode, corpus, 8176, base, points)
