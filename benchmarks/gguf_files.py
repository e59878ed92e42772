"""GGUF files of the default model: perplexity ÷ base of what a file holds, dequantized as transformers does."""

from __future__ import annotations

import torch
from gguf import quants

from acip_core.artifacts.gguf_export import plan_gguf
from acip_core.artifacts.loading import open_model
from acip_core.data.corpus import corpus_windows
from acip_core.evaluation.curves import primary_curves
from acip_core.evaluation.methods import corpus_title
from acip_core.evaluation.perplexity import WINDOW, measure_perplexity
from acip_core.model.gguf_types import TYPES, column_importance, filled, quantized
from acip_core.model.operating_points import code_of
from acip_core.model.size_planner import DENSE
from acip_core.progress import finish

from .figure import Figure

_MEGABYTES = (84, 76)  # of weights; the first is a size at which llama.cpp's own mixtures lose a third


@torch.no_grad()
def measure_gguf() -> list[Figure]:
    """One figure per size and corpus."""
    loaded = finish(open_model())
    elastic, coding = loaded.elastic, loaded.coding
    assert coding is not None
    planner, modules = finish(plan_gguf(elastic, coding)), dict(elastic.model.named_modules())
    names = (*elastic.elastic_layers(), *coding.moments.tables)
    original = {name: modules[name].weight.detach().clone() for name in names}
    figures = []
    for megabytes in _MEGABYTES:
        for name, state in zip(names, filled(planner, megabytes * 1e6).states, strict=True):
            weight = original[name]
            if state != DENSE:
                kind = TYPES[code_of(state)[0]]
                data = quantized(weight, kind, column_importance(name, coding.moments))
                weight = torch.from_numpy(quants.dequantize(data, kind).copy())
            modules[name].weight.copy_(weight)
        for curve in primary_curves(loaded.artifact.curves):
            windows = corpus_windows(elastic.tokenizer, curve.corpus, curve.split, WINDOW, curve.tokens // (WINDOW - 1))
            *_, last = measure_perplexity(elastic.model, windows)
            name = f"perplexity of a GGUF file of {megabytes} MB ÷ base, {corpus_title(curve.corpus)}"
            figures.append(Figure(name, last.value / curve.base_perplexity, "×"))
    return figures
