"""Moments that codes are made with: of tables, in the units of what is stored."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from acip_core.errors import ModelError
from acip_core.model.coding_moments import measure_coding_moments, read_coding_moments, save_coding_moments
from acip_core.progress import finish
from acip_core.storage.resumable import ResumableRun
from acip_core.storage.verified import read_tensors
from tests.support.tiny import calibration, target_weights, tiny_base, tiny_basis


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_a_scaled_embedding_loses_what_one_with_larger_rows_does(family: str):
    scaled = tiny_base(family)
    model, basis, layers = scaled.model, tiny_basis(scaled), list(target_weights(scaled))
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())  # tied, the head's share would hide the embedding's
    plain = copy.deepcopy(model)
    embedding = plain.get_input_embeddings()
    scale = embedding.scalar_embed_scale
    assert scale == pytest.approx(32**0.5)
    embedding.scalar_embed_scale = 1.0
    embedding.embed_scale.fill_(1.0)
    with torch.no_grad():
        embedding.weight *= scale
    tables = [finish(measure_coding_moments(m, calibration(), layers, basis)).tables for m in (model, plain)]
    ours, theirs = (found["model.embed_tokens"].rows.root().matrix() for found in tables)
    # a row of the one that is off by d moves the output as one of the other that is off by scale · d
    assert torch.allclose(ours, scale**2 * theirs, rtol=0.02, atol=1e-3 * float(ours.abs().max()))


@pytest.mark.parametrize(("part", "value"), [("scale", math.nan), ("columns", math.inf), ("weights", math.nan)])
def test_moments_that_are_not_finite_are_refused(part: str, value: float, tmp_path: Path):
    base = tiny_base()
    basis = tiny_basis(base)
    moments = finish(measure_coding_moments(base.model, calibration(), list(target_weights(base)), basis))
    name, table = next(iter(moments.tables.items()))
    table = copy.deepcopy(table)
    getattr(table if part == "weights" else table.rows, part).view(-1)[0] = value
    save_coding_moments(replace(moments, tables={name: table}), tmp_path / "moments", basis)
    with pytest.raises(ValueError, match=name):
        read_coding_moments(tmp_path / "moments", basis)


@pytest.mark.parametrize("of_gradients", [True, False])
def test_a_run_killed_among_its_windows_goes_on_to_the_same_bits(of_gradients: bool, tmp_path: Path):
    base = tiny_base("qwen2")
    basis, layers = tiny_basis(base), list(target_weights(base))
    whole = finish(measure_coding_moments(base.model, calibration(), layers, basis))
    known = None if of_gradients else whole.gradients
    run = ResumableRun(tmp_path / "run")
    begun = []
    for _ in range(3):
        steps = measure_coding_moments(base.model, calibration(), layers, basis, gradients=known, partial=run)
        begun.append(next(steps).done)
    assert begun == [1, 2, 3], "each goes on where the one before was killed"
    save_coding_moments(finish(steps), tmp_path / "killed", basis)
    save_coding_moments(whole, tmp_path / "whole", basis)
    ours, theirs = (read_tensors(tmp_path / name)[0] for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    (run.path("sums.safetensors") or tmp_path).write_bytes(b"damaged")
    again = measure_coding_moments(base.model, calibration(), layers, basis, gradients=known, partial=run)
    assert next(again).done == 1, "what is damaged counts as not there"


def test_gradients_that_are_not_finite_are_refused():
    base = tiny_base()
    basis = tiny_basis(base)
    with torch.no_grad():
        base.model.get_output_embeddings().weight[7] = math.inf
    with pytest.raises(ModelError, match="not finite"):
        finish(measure_coding_moments(base.model, calibration(), list(target_weights(base)), basis))
