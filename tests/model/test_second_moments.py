"""The basis: second moments as they are measured, compressed, stored and read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acip_core.errors import ModelError
from acip_core.model.base_model import BaseModel
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.factorization import factorize
from acip_core.model.second_moments import (
    measure_basis,
    read_basis,
    save_basis,
)
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from tests.support.tiny import calibration, target_weights, tiny_base, tiny_basis


def captured(base: BaseModel) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and bias-free outputs of every target layer on the calibration text, in float64, by one batched pass."""
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def hook(name: str):
        def keep(layer, inputs, output):
            x = inputs[0].flatten(0, -2).double()
            seen[name] = (x.cpu(), (x @ layer.weight.double().T).cpu())

        return keep

    hooks = [layer.register_forward_hook(hook(name)) for name, layer in target_layers(base.model).items()]
    with torch.no_grad():
        base.model(calibration())
    for handle in hooks:
        handle.remove()
    return seen


def test_layers_with_a_common_input_share_a_moment(base: BaseModel):
    basis = tiny_basis(base)
    weights = target_weights(base)
    assert list(basis) == list(weights)
    for block in (0, 1):
        names = {name: moment for name, moment in basis.items() if f".{block}." in name}
        assert len({id(moment) for moment in names.values()}) == 4  # before and in attention, before and in the MLP
        for together in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            assert len({id(moment) for name, moment in names.items() if name.endswith(together)}) <= 1
        for name, moment in names.items():
            m, n = weights[name].shape
            wide = n > m and len(moment.layers) == 1
            assert moment.side == ("output" if wide else "input") and len(moment.scale) == (m if wide else n)


def test_measuring_leaves_the_model_as_it_was():
    base = tiny_base()
    before = base.model(calibration()).logits
    steps = measure_basis(base.model, calibration(), rank=4)
    next(steps)
    steps.close()  # cancelled half-way
    assert not any(layer._forward_hooks for layer in target_layers(base.model).values())
    assert torch.equal(base.model(calibration()).logits, before)


def test_full_rank_moment_is_the_exact_one_to_int8_precision(base: BaseModel):
    basis = finish(measure_basis(base.model, calibration(), rank=10_000))
    for name, (x, y) in captured(base).items():
        samples = x if basis[name].side == "input" else y
        exact = samples.T @ samples / len(samples)
        assert torch.dist(basis[name].root().matrix().double(), exact) < 0.02 * exact.norm(), name


def test_moment_of_low_rank_keeps_the_variances_and_is_positive_definite(base: BaseModel):
    exact = captured(base)
    for name, moment in finish(measure_basis(base.model, calibration(), rank=6)).items():
        matrix = moment.root().matrix()
        samples = exact[name][0 if moment.side == "input" else 1]
        assert torch.allclose(matrix.diagonal().double(), samples.square().mean(0), rtol=0.02)
        assert torch.linalg.eigvalsh(matrix.double()).min() > 0
        assert torch.allclose(matrix, matrix.T)
        assert moment.factor.dtype == torch.int8 and moment.factor.shape == (len(matrix), 6)


def test_basis_file_round_trip(base: BaseModel, tmp_path: Path):
    basis = tiny_basis(base)
    save_basis(basis, tmp_path / "basis.safetensors")
    read, gradients = read_basis(tmp_path / "basis.safetensors")
    assert set(read) == set(basis) and gradients is None
    for name, moment in basis.items():
        other = read[name]
        assert (other.layers, other.side) == (moment.layers, moment.side)
        assert all(read[member] is other for member in moment.layers)
        for part in ("scale", "factor", "columns"):
            assert torch.equal(getattr(other, part), getattr(moment, part))


def test_activations_that_are_not_finite_are_one_clear_error():
    base = tiny_base()
    with torch.no_grad():
        base.model.model.layers[1].input_layernorm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.q_proj reads are not finite"):
        finish(measure_basis(base.model, calibration()))
    assert not any(layer._forward_hooks for layer in target_layers(base.model).values())


def test_a_two_sided_basis_is_read_as_it_was_written(base: BaseModel, tmp_path: Path):
    basis = finish(measure_basis(base.model, calibration(), rank=8, of_inputs=True))
    assert {moment.side for moment in basis.values()} == {"input"}
    gradients = finish(measure_coding_moments(base.model, calibration(), list(basis), basis)).gradients
    save_basis(basis, tmp_path / "basis.safetensors", gradients)
    read = read_basis(tmp_path / "basis.safetensors")
    for ours, found in zip((basis, gradients), read, strict=True):
        assert found is not None and found.keys() == ours.keys()
        for name in ours:
            assert all(torch.equal(getattr(ours[name], p), getattr(found[name], p)) for p in ("scale", "factor"))
    weights = target_weights(base)
    factors = finish(factorize(weights, *read))
    for name, weight in weights.items():
        assert torch.allclose(factors[name].up.T @ factors[name].down(weight), weight, atol=1e-5)
