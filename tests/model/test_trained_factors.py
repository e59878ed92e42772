"""What training adds to factors: signs and zeros with a scale a row, kept in 1.6 bits an entry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acip_core.model.trained_factors import FactorUpdate, Ternary, read_updates, save_updates
from acip_core.storage.verified import DAMAGE
from tests.support.tiny import generator

SHAPE = (7, 13)


def random_matrix(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=generator()) * torch.logspace(-4, 2, rows)[:, None]


def test_every_entry_is_zero_or_its_rows_scale_with_its_own_sign() -> None:
    matrix = random_matrix(*SHAPE)
    kept = Ternary.of(matrix)
    found = kept.matrix()
    assert torch.equal(found.abs(), kept.scale[:, None] * (found != 0))
    assert (found * matrix >= 0).all()
    on = matrix.abs() > 0.7 * matrix.abs().mean(1, keepdim=True)
    assert torch.equal(found != 0, on)
    torch.testing.assert_close(kept.scale, (matrix.abs() * on).sum(1) / on.sum(1), rtol=1e-3, atol=0)


def test_it_is_nearer_than_nothing_and_signs_alone() -> None:
    matrix = torch.randn(40, 500, generator=generator())
    error = (Ternary.of(matrix).matrix() - matrix).square().mean()
    signs = (matrix.sign() * matrix.abs().mean(1, keepdim=True) - matrix).square().mean()
    assert error < 0.6 * signs < 0.6 * matrix.square().mean()


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_rows_beyond_sixteen_bits_keep_their_size(size: float, tmp_path: Path) -> None:
    update = FactorUpdate(*(Ternary.of(random_matrix(4, n) * size) for n in (20, 12)))
    save_updates({"a": update}, tmp_path / "factors.safetensors")
    read = read_updates(tmp_path / "factors.safetensors", {"a": (12, 20)})["a"]
    assert torch.equal(read.down.matrix(), update.down.matrix()) and read.down.matrix().abs().max() > 0.1 * size


@pytest.mark.parametrize("shape", [SHAPE, (1, 1), (3, 0), (0, 4), (5, 5)])
def test_five_entries_fit_a_byte(shape: tuple[int, int]) -> None:
    kept = Ternary.of(random_matrix(*shape))
    assert kept.digits.numel() == -(-shape[0] * shape[1] // 5)
    assert kept.matrix().shape == shape


def test_a_matrix_of_zeros_stays_one() -> None:
    assert torch.equal(Ternary.of(torch.zeros(SHAPE)).matrix(), torch.zeros(SHAPE))


SHAPES = {"a": (12, 20), "b": (9, 9)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    updates = {name: FactorUpdate(Ternary.of(random_matrix(4, n)), Ternary.of(random_matrix(4, m)))
               for name, (m, n) in SHAPES.items()}  # fmt: skip
    save_updates(updates, tmp_path / "factors.safetensors")
    read = read_updates(tmp_path / "factors.safetensors", SHAPES)
    for name, update in updates.items():
        assert torch.equal(read[name].down.matrix(), update.down.matrix())
        assert torch.equal(read[name].up.matrix(), update.up.matrix())
    return tmp_path / "factors.safetensors"


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("a.down", lambda t: t[:-1]),
        ("a.down", lambda t: t.float()),
        ("a.up", lambda t: t.fill_(250)),
        ("b.up.scale", lambda t: t.fill_(torch.nan)),
        ("b.up.scale", lambda t: t[:-1].clone()),
        ("b.down", None),
    ],
)
def test_damage_is_found(file: Path, key: str, change) -> None:
    tensors = load_file(file)
    if change is None:
        del tensors[key]
    else:
        tensors[key] = change(tensors[key].clone())
    save_file(tensors, file)
    with pytest.raises(DAMAGE):
        read_updates(file, SHAPES)


def test_factors_of_other_layers_are_refused(file: Path) -> None:
    with pytest.raises(DAMAGE):
        read_updates(file, {"a": (12, 20), "b": (9, 12)})
    with pytest.raises(DAMAGE):
        read_updates(file, {**SHAPES, "c": (3, 3)})
