"""Ablations: every row under the same conditions, resumable, and nothing measured twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.artifacts.ablation_rows import FILE as ABLATION
from acip_core.errors import ArtifactError, StorageError
from acip_core.model.coding_moments import measure_coding_moments
from acip_core.model.factorization import factorize
from acip_core.model.second_moments import plain_basis
from acip_core.pipelines.ablation import ROWS, VARIANTS, ablate
from acip_core.pipelines.ablation_parts import predicted_gains
from acip_core.pipelines.ablation_run import AblationConfig
from acip_core.pipelines.comparison_run import ComparisonConfig
from acip_core.progress import Progress, finish
from acip_core.storage.locks import only_run
from acip_core.training.factors import FactorConfig
from tests.support.tiny import calibration, target_weights, tiny_base, tiny_basis

pytestmark = pytest.mark.usefixtures("exact")


@pytest.fixture
def settings(budget: ComparisonConfig, monkeypatch: pytest.MonkeyPatch) -> AblationConfig:
    quantized = "scored in nf4, measured in full (3.4)"
    monkeypatch.setitem(
        VARIANTS, quantized, replace(VARIANTS[quantized], quantized="int4")
    )  # layers too narrow for nf4
    pruning = replace(budget.small, post_steps=3)
    factors = FactorConfig(steps=3, batch=2)
    return AblationConfig(
        pruning, budget.adapters, factors, (0.8, 0.6), budget.corpora, score_windows=4, held_out_windows=3
    )


def test_every_row_is_measured_and_kept(fitted: str, settings: AblationConfig, tmp_path: Path):
    seen: list[str] = []
    rows = finish(ablate(fitted, tmp_path / "artifact", settings), lambda step: seen.append(step.stage))
    assert [row.name for row in rows] == list(ROWS)
    by_name = {row.name: row.relative for row in rows}
    assert all(list(relative) == ["0.80", "0.60"] for relative in by_name.values())
    assert all(value is not None and value > 0 for relative in by_name.values() for value in relative.values())
    assert len({tuple(relative.values()) for relative in by_name.values()}) == len(ROWS)
    again: list[str] = []
    assert finish(ablate(fitted, tmp_path / "artifact", settings), lambda step: again.append(step.stage)) == rows
    assert set(again) == {"loading the model"} < set(seen)


def test_killed_ablations_continue(fitted: str, settings: AblationConfig, tmp_path: Path):
    def kill(step: Progress) -> None:
        if step.stage.startswith("measuring stop at 60 %"):
            raise KeyboardInterrupt

    names = ("all as it is", "stop at 60 % (D.4)")
    with pytest.raises(KeyboardInterrupt):
        finish(ablate(fitted, tmp_path / "artifact", settings, names), kill)
    seen: list[str] = []
    continued = finish(ablate(fitted, tmp_path / "artifact", settings, names), lambda step: seen.append(step.stage))
    assert not any("pruning" in stage or "all as it is" in stage for stage in seen)
    (tmp_path / "artifact" / ABLATION).unlink()
    assert finish(ablate(fitted, tmp_path / "artifact", settings, names)) == continued


def test_rows_stay_when_settings_of_others_change(fitted: str, settings: AblationConfig, tmp_path: Path):
    question, part = "up_proj excluded (D.8)", "plain basis"
    before = finish(ablate(fitted, tmp_path / "artifact", settings, (question, part)))
    trained_longer = replace(settings, factors=replace(settings.factors, steps=4))
    pruned_otherwise = replace(settings, pruning=replace(settings.pruning, post_steps=4))
    seen: list[str] = []
    for changed, row, former in ((trained_longer, question, before[0]), (pruned_otherwise, part, before[1])):
        found = finish(ablate(fitted, tmp_path / "artifact", changed, (row,)), lambda step: seen.append(step.stage))
        assert found == (former,)
    assert set(seen) == {"loading the model"}


def test_other_text_is_another_ablation(fitted: str, settings: AblationConfig, tmp_path: Path):
    names = ("up_proj excluded (D.8)",)
    (before,) = finish(ablate(fitted, tmp_path / "artifact", settings, names))
    text = Path(settings.corpora[0])
    text.write_text(text.read_text()[::-1])
    (after,) = finish(ablate(fitted, tmp_path / "artifact", settings, names))
    assert set(before.relative.values()).isdisjoint(after.relative.values())


def test_a_second_run_at_once_is_refused(fitted: str, settings: AblationConfig, tmp_path: Path):
    with only_run(tmp_path / "artifact"), pytest.raises(StorageError, match="Another run is writing"):
        finish(ablate(fitted, tmp_path / "artifact", settings, ("all as it is",)))


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_damaged_rows_are_one_sentence(fitted: str, settings: AblationConfig, tmp_path: Path, content: str):
    (tmp_path / "artifact" / ABLATION).write_text(content)
    with pytest.raises(ArtifactError, match=r"ablation.json is damaged"):
        finish(ablate(fitted, tmp_path / "artifact", settings))
    with pytest.raises(ArtifactError, match="Unknown ablation 'magic'; choose among: all as it is; without"):
        finish(ablate(fitted, tmp_path / "artifact", settings, ("magic",)))


def test_gains_in_any_basis_are_what_dropping_a_direction_is_predicted_to_cost():
    base = tiny_base()
    weights, name = target_weights(base), "model.layers.0.mlp.up_proj"
    moments = finish(measure_coding_moments(base.model, calibration(), weights, tiny_basis(base)))
    plain = finish(factorize(weights, plain_basis(weights)))
    g, c = (of[name].matrix(torch.device("cpu")) for of in (moments.gradients, moments.inputs))
    found = plain[name]
    dropped = torch.outer(found.up[3], found.down(weights[name])[3]).double()  # one term of the weight
    cost = (g @ dropped @ c @ dropped.T).trace()
    assert predicted_gains(plain, weights, moments)[name][3] == pytest.approx(cost.item(), rel=1e-4)
    two = finish(factorize(weights, moments.inputs, moments.gradients))
    gains = predicted_gains(two, weights, moments)[name]
    assert torch.allclose(gains[:5], two[name].singular_values[:5].square(), rtol=0.05)  # but for the damping
