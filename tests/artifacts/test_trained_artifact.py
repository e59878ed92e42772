"""An artifact with a two-sided basis and trained factors: read as written, run as measured, damage found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acip_core.artifacts.artifact import Artifact
from acip_core.artifacts.export import export
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import renew_digests, write_artifact
from acip_core.errors import ArtifactError
from acip_core.figures.pictures import history_pictures, score_map_figures
from acip_core.model.base_model import load_base
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.factorization import factorize
from acip_core.model.rank_costs import break_even_rank
from acip_core.model.second_moments import measure_basis, save_basis
from acip_core.model.size_planner import DENSE
from acip_core.model.trained_factors import FactorUpdate, Ternary
from acip_core.progress import finish
from acip_core.scoring.predicted import predicted_scores
from acip_core.storage.verified import write_json
from tests.support.tiny import calibration, generator, save, target_weights, tiny_artifact, tiny_base


@pytest.fixture(scope="module", params=[False, True], ids=["factors", "pivots"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact, Path]:
    """A saved model, the artifact, and its folder."""
    pivoted = request.param
    home = tmp_path_factory.mktemp("trained")
    base = tiny_base()
    save(base, home / "model")
    base = replace(base, name="model", source="model")
    weights = target_weights(base)
    basis = finish(measure_basis(base.model, calibration(), rank=16, of_inputs=True))
    gradients = finish(measure_coding_moments(base.model, calibration(), list(weights), basis)).gradients
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    scores = predicted_scores(finish(factorize(weights, basis, gradients)), shapes, pivoted)
    source, updates = generator(), {}
    for name, (m, n) in shapes.items():
        rows = min(break_even_rank(m, n, pivoted=pivoted), m, n)
        down, up = (torch.randn(rows, width, generator=source) * 0.02 for width in (n, m))
        updates[name] = FactorUpdate(Ternary.of(down), Ternary.of(up))
    plain = tiny_artifact(base, adapter_rank=0)
    recipe = plain.recipe | {"factors": {"steps": 1}, "basis": "two-sided", "pivoted": pivoted}
    artifact = replace(
        plain, recipe=recipe, scores=scores, basis=basis, gradients=gradients, updates=updates,
        history={"factors.loss": torch.ones(3), "factors.ratio": torch.ones(3)},
    )  # fmt: skip
    write_artifact(artifact, home / "artifact")
    return home / "model", artifact, home / "artifact"


@pytest.fixture
def copy(made: tuple[Path, Artifact, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[2], tmp_path / "copy"))


def test_it_is_read_as_it_was_written(made: tuple[Path, Artifact, Path]) -> None:
    _, artifact, folder = made
    read = read_artifact(folder)
    assert read.updates is not None and read.gradients is not None and artifact.updates is not None
    for name, update in artifact.updates.items():
        assert torch.equal(read.updates[name].down.matrix(), update.down.matrix())
        assert torch.equal(read.updates[name].up.matrix(), update.up.matrix())
        assert torch.equal(read.gradients[name].factor, artifact.gradients[name].factor)  # type: ignore[index]
    assert torch.equal(read.history["factors.loss"], torch.ones(3))
    assert score_map_figures(read)
    assert [picture.title for picture in history_pictures(read.history)] == ["Factor training"]


@torch.no_grad()
def test_a_cut_runs_the_trained_factors_and_full_size_the_base(made: tuple[Path, Artifact, Path]) -> None:
    model, artifact, folder = made
    loaded, bare = (finish(open_model(str(model), folder, install=install)) for install in (True, False))
    ids = calibration()[:1]
    expected = load_base(str(model)).model(ids).logits
    name, layer = next(iter(loaded.elastic.elastic_layers().items()))
    own = bare.elastic.elastic_layers()[name]
    torch.testing.assert_close(layer.down - own.down, artifact.updates[name].down.matrix(), rtol=1e-3, atol=1e-6)  # type: ignore[index]
    assert torch.equal(loaded.elastic.model(ids).logits, expected)
    for elastic in (loaded.elastic, bare.elastic):
        elastic.set_size(0.5)
    assert not torch.allclose(loaded.elastic.model(ids).logits, bare.elastic.model(ids).logits)
    assert loaded.elastic.plan == bare.elastic.plan


def test_the_papers_convention_counts_two_factors(made: tuple[Path, Artifact, Path]) -> None:
    model, artifact, folder = made
    for count in (True, False):
        elastic = finish(open_model(str(model), folder, count_adapters=count)).elastic
        plan, stored = elastic.set_size(0.5), 0
        for rank, layer in zip(plan.ranks, elastic.elastic_layers().values(), strict=True):
            m, n = layer.weight.shape
            saved = rank if artifact.pivoted and count else 0
            stored += m * n if rank == DENSE else rank * (m + n - saved)
        assert plan.target_parameters == stored


@torch.no_grad()
def test_an_export_is_the_cut(made: tuple[Path, Artifact, Path], tmp_path: Path) -> None:
    model, _, folder = made
    loaded = finish(open_model(str(model), folder))
    plan = loaded.elastic.set_size(0.5)
    finish(export(loaded.elastic, loaded.artifact, plan, tmp_path / "out"))
    ids = calibration()[:1]
    cut = load_base(str(tmp_path / "out")).model(ids).logits
    torch.testing.assert_close(cut, loaded.elastic.model(ids).logits, rtol=1e-4, atol=1e-4)


def _tensors(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file)

    return damage


def _without_gradients(folder: Path) -> None:
    save_basis(read_artifact(folder).basis, folder / "basis.safetensors")


def _renewed(folder: Path) -> None:
    """Digests as if it had been written so."""
    description = json.loads((folder / "acip.json").read_text())
    del description["sha256"]
    write_json(folder / "acip.json", description)
    with suppress(ArtifactError):  # what is wrong is said again on reading
        renew_digests(folder)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / "factors.safetensors").unlink(), "factors.safetensors"),
        (lambda f: (f / "factors.safetensors").write_bytes(b"no"), "factors.safetensors"),
        (_tensors("factors.safetensors", lambda t: t.pop(sorted(t)[0])), "factors.safetensors"),
        (_tensors("factors.safetensors", lambda t: t[sorted(t)[0]].fill_(255)), "factors.safetensors"),
        (_without_gradients, "lacks the moments of gradients"),
    ],
)
@pytest.mark.parametrize("renewed", [False, True])
def test_damage_is_one_sentence(copy: Path, damage: Callable[[Path], object], named: str, renewed: bool) -> None:
    damage(copy)
    if renewed:
        _renewed(copy)
    with pytest.raises(ArtifactError) as caught:
        read_artifact(copy)
    assert (named if renewed else copy.name) in str(caught.value) and "\n" not in str(caught.value)


def test_factors_of_another_shape_are_refused(made: tuple[Path, Artifact, Path], tmp_path: Path) -> None:
    model, artifact, _ = made
    short = {name: FactorUpdate(*(Ternary.of(part.matrix()[:-1]) for part in (update.down, update.up)))
             for name, update in (artifact.updates or {}).items()}  # fmt: skip
    write_artifact(replace(artifact, updates=short), tmp_path / "short")
    with pytest.raises(ArtifactError, match="another number of directions"):
        finish(open_model(str(model), tmp_path / "short"))
