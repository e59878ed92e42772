"""Comparison and ablations: every row under the same conditions, resumable, and nothing measured twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.artifacts.comparison import FILE, Comparison, read_comparison, worst_relative
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.data.corpus import documents, token_windows
from acip_core.errors import ArtifactError, SizeError, StorageError
from acip_core.evaluation.fidelity import full_logits, measure_fidelity
from acip_core.evaluation.perplexity import measure_perplexity
from acip_core.model.base_model import load_base
from acip_core.model.elastic_model import build_elastic
from acip_core.pipelines import method_comparison
from acip_core.pipelines.method_comparison import ComparisonConfig, compare
from acip_core.progress import Progress, finish
from acip_core.storage.locks import only_run
from acip_core.training.adapters import AdapterRun
from acip_core.training.factors import FactorRun
from tests.support.commands import run as command
from tests.support.tiny import calibration, random_scores, tiny_base, tiny_factors

pytestmark = pytest.mark.usefixtures("exact")

METHODS = (
    "artifact",
    "svd-magnitude",
    "factors",
    "aa-svd",
    "dobi-svd",
    "predicted",
    "fisher-envelope",
    "fisher-iterated",
    "acip-small",
    "fisher-density",
    "svd-llm",
    "acip",
    "gradient",
    "asvd",
)
ONCE = 5  # of them are measured without adapters or with their own alone


def run(fitted: str, budget: ComparisonConfig, tmp_path: Path, methods=METHODS, watch=None) -> Comparison:
    return finish(compare(fitted, tmp_path / "artifact", budget, methods), watch)


def test_every_method_is_measured_at_every_size(fitted: str, budget: ComparisonConfig, tmp_path: Path):
    comparison = run(fitted, budget, tmp_path)
    found = {(r.method, r.adapters, r.wanted) for r in comparison.results}
    both = {(m, a, r) for m in METHODS[ONCE:] for a in (False, True) for r in budget.ratios}
    once = {(m, m == "artifact", r) for m in METHODS[:ONCE] for r in budget.ratios}
    assert found == both | once and len(comparison.results) == len(found)
    for result in comparison.results:
        assert result.ratio == pytest.approx(result.wanted, abs=0.02)
        assert result.perplexity > 1 and result.divergence > 0 and 0 <= result.agreement <= 1
    windows = token_windows(load_base(fitted).tokenizer, documents(budget.corpora[0], "held-out"), 32, 3)
    *_, base = measure_perplexity(load_base(fitted).model, windows)
    assert comparison.base_perplexity == {budget.corpora[0]: pytest.approx(base.value, rel=1e-5)}
    assert read_comparison(tmp_path / "artifact") == comparison


def test_a_new_artifact_is_measured_again_and_nothing_else(fitted: str, budget: ComparisonConfig, tmp_path: Path):
    methods = ("artifact", "svd-llm")
    before = run(fitted, budget, tmp_path, methods)
    read = read_artifact(tmp_path / "artifact")
    write_artifact(replace(read, recipe=read.recipe | {"steps": 1}), tmp_path / "artifact")
    stages: list[str] = []
    after = run(fitted, budget, tmp_path, methods, lambda step: stages.append(step.stage))
    assert {stage.split()[1] for stage in stages if stage.startswith("measuring")} == {"artifact+adapters"}
    assert {r for r in after.results if r.method == "svd-llm"} == {r for r in before.results if r.method == "svd-llm"}
    other = replace(read, fingerprint="another model's")
    write_artifact(other, tmp_path / "artifact")
    assert not (tmp_path / "artifact" / FILE).exists()


def test_other_text_or_another_basis_is_another_comparison(fitted: str, budget: ComparisonConfig, tmp_path: Path):
    before = run(fitted, budget, tmp_path, ("svd-llm",))
    text = Path(budget.corpora[0])
    text.write_text(text.read_text()[::-1])
    other_text = run(fitted, budget, tmp_path, ("svd-llm",))
    read = read_artifact(tmp_path / "artifact")
    basis = {layer: replace(moment, scale=moment.scale.flip(0)) for layer, moment in read.basis.items()}
    write_artifact(replace(read, basis=basis), tmp_path / "artifact")
    other_basis = run(fitted, budget, tmp_path, ("svd-llm",))
    assert before.base_perplexity != other_text.base_perplexity == other_basis.base_perplexity
    all_of_them = (before, other_text, other_basis)
    assert len({r.perplexity for found in all_of_them for r in found.results}) == 3 * len(before.results)


def test_a_second_run_at_once_is_refused(fitted: str, budget: ComparisonConfig, tmp_path: Path):
    with only_run(tmp_path / "artifact"), pytest.raises(StorageError, match="Another run is writing"):
        run(fitted, budget, tmp_path, ("svd-magnitude",))


def test_the_worse_corpus_counts(fitted: str, budget: ComparisonConfig, tmp_path: Path):
    comparison = run(fitted, replace(budget, corpora=(budget.corpora[0],)), tmp_path, ("svd-llm",))
    (base,) = comparison.base_perplexity.values()
    found = worst_relative(comparison, "svd-llm", True)
    assert list(found) == [0.7, 0.8]
    assert set(found.values()) == {r.perplexity / base for r in comparison.results if r.adapters}
    two = replace(comparison, base_perplexity=comparison.base_perplexity | {"other": 1.0})
    assert worst_relative(two, "svd-llm", True) == {}  # the other corpus has not been measured


def test_a_killed_comparison_continues_and_measures_nothing_twice(
    fitted: str, budget: ComparisonConfig, tmp_path: Path
):
    seen: list[str] = []

    def kill(step: Progress) -> None:
        seen.append(step.stage)
        if step.stage.startswith("measuring fisher-density+adapters at 70%") and step.done == 2:
            raise KeyboardInterrupt

    methods = ("fisher-density", "svd-llm")
    with pytest.raises(KeyboardInterrupt):
        run(fitted, budget, tmp_path, methods, kill)
    kept = read_comparison(tmp_path / "artifact")
    assert kept is not None and len(kept.results) == 3
    again: list[str] = []
    continued = run(fitted, budget, tmp_path, methods, lambda step: again.append(step.stage))
    measured = {stage for stage in again if stage.startswith("measuring fisher-density")}
    assert {stage.split(",")[0] for stage in measured} == {"measuring fisher-density+adapters at 70%"}
    assert "scoring" not in again and continued.results[:3] == kept.results
    (tmp_path / "artifact" / FILE).unlink()
    assert run(fitted, budget, tmp_path, methods).results == continued.results
    finished: list[str] = []
    run(fitted, budget, tmp_path, methods, lambda step: finished.append(step.stage))
    assert set(finished) == {"loading the model"}


def test_results_outlive_a_setting_that_was_added_later(fitted: str, budget: ComparisonConfig, tmp_path: Path):
    before, file = run(fitted, budget, tmp_path, ("svd-llm",)), tmp_path / "artifact" / "comparison.json"
    content = json.loads(file.read_text())
    del content["sha256"]  # as a file from before there were digests
    assert content["budget"]["adapters"].pop("batch") == 1  # as today's default has it
    file.write_text(json.dumps(content))
    stages: list[str] = []
    after = run(fitted, budget, tmp_path, ("svd-llm",), lambda step: stages.append(step.stage))
    assert after.results == before.results and set(stages) == {"loading the model"}
    content["budget"]["adapters"].pop("steps")  # 120 by default, but not here
    file.write_text(json.dumps(content))
    run(fitted, budget, tmp_path, ("svd-llm",), lambda step: stages.append(step.stage))
    assert any(stage.startswith("measuring svd-llm") for stage in stages)


def test_another_budget_is_another_comparison(fitted: str, budget: ComparisonConfig, tmp_path: Path):
    run(fitted, budget, tmp_path, ("artifact",))
    other = run(fitted, replace(budget, ratios=(0.9,)), tmp_path, ("artifact",))
    assert [r.wanted for r in other.results] == [0.9]


def measured_alone(windows: torch.Tensor) -> torch.Tensor:
    """Mean nats of each window to the full model."""
    *_, full = measure_perplexity(tiny_base().model, windows)
    return torch.tensor(full.losses) / (windows.shape[1] - 1)


def test_the_full_model_agrees_with_itself(tmp_path: Path):
    base = tiny_base()
    elastic = finish(build_elastic(base, tiny_factors(base), random_scores(base)))
    teacher, perplexity = finish(full_logits(base.model, calibration(), "text"))
    same = finish(measure_fidelity(base.model, calibration(), teacher, "full"))
    assert (same.perplexity, same.agreement) == (pytest.approx(perplexity), 1)
    assert same.divergence == pytest.approx(0, abs=1e-5)
    elastic.set_size(0.5)
    cut = finish(measure_fidelity(base.model, calibration(), teacher, "cut"))
    *_, expected = measure_perplexity(base.model, calibration())
    assert cut.perplexity == pytest.approx(expected.value, rel=1e-5)
    rises = torch.tensor(expected.losses) / (calibration().shape[1] - 1) - measured_alone(calibration())
    assert cut.error == pytest.approx((rises.std(correction=1) / len(rises) ** 0.5).item(), rel=1e-2)
    assert same.error == pytest.approx(0, abs=1e-4)  # of logits in 16 bits
    with torch.no_grad():
        logits = base.model(calibration()).logits[:, :-1]
    full = teacher.float()
    divergence = (full.softmax(-1) * (full.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean().item()
    assert cut.divergence == pytest.approx(divergence, rel=1e-3)
    assert cut.agreement == pytest.approx((full.argmax(-1) == logits.argmax(-1)).float().mean().item())


def test_windows_side_by_side_are_measured_as_alone(monkeypatch: pytest.MonkeyPatch):
    base = tiny_base()
    elastic = finish(build_elastic(base, tiny_factors(base), random_scores(base)))
    found = []
    for at_once in (1, 4):  # of six
        monkeypatch.setattr("acip_core.evaluation.fidelity._AT_ONCE", {"cpu": at_once})
        elastic.set_size(1.0)
        teacher, perplexity = finish(full_logits(base.model, calibration(), "text"))
        elastic.set_size(0.5)
        cut = finish(measure_fidelity(base.model, calibration(), teacher, "cut"))
        found.append((perplexity, cut.perplexity, cut.divergence, cut.agreement, cut.error))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"budget": {}, "base_perplexity": {}, "results": [{"method": 1}]}']
)
def test_a_damaged_file_is_one_sentence(fitted: str, budget: ComparisonConfig, tmp_path: Path, content: str):
    (tmp_path / "artifact" / FILE).write_text(content)
    with pytest.raises(ArtifactError, match=r"comparison.json is damaged \(.*delete it"):
        run(fitted, budget, tmp_path)
    assert (tmp_path / "artifact" / FILE).read_text() == content


def test_an_unknown_method_is_one_sentence(fitted: str, budget: ComparisonConfig, tmp_path: Path):
    with pytest.raises(
        ArtifactError, match="Unknown method 'magic'; choose among artifact, predicted, factors, fisher"
    ):
        run(fitted, budget, tmp_path, ("magic",))


def test_some_sizes_now_and_the_others_later(fitted: str, budget: ComparisonConfig, tmp_path: Path):
    methods = ("svd-llm", "aa-svd")
    finish(compare(fitted, tmp_path / "artifact", budget, methods, (0.7,)))
    seen: list[str] = []
    later = run(fitted, budget, tmp_path, methods, lambda step: seen.append(step.stage))
    assert {stage for stage in seen if stage.startswith("AA-SVD")} == {"AA-SVD at 80%"}
    (tmp_path / "artifact" / FILE).unlink()
    at_once = run(fitted, budget, tmp_path, methods)
    assert sorted(later.results, key=str) == sorted(at_once.results, key=str)
    with pytest.raises(SizeError, match=r"not compared at a size of 0.75; choose among 0.8, 0.7\."):
        finish(compare(fitted, tmp_path / "artifact", budget, methods, (0.7, 0.75)))


def test_a_size_that_is_not_compared_is_one_sentence_on_the_command_line(
    fitted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    code, said = command(monkeypatch, capsys, "measure", "methods", fitted, "--size", "0.75")
    assert code == 2 and "not compared at a size of 0.75; choose among 0.9, 0.8, 0.7, 0.6, 0.5, 0.4." in " ".join(
        said.split()
    )


def test_all_that_is_trained_reads_the_same_text(
    fitted: str, budget: ComparisonConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read: dict[str, list[torch.Tensor]] = {"adapters": [], "factors": [], "aa-svd": []}
    draw, advance, first = AdapterRun._draw, FactorRun._backward, method_comparison.aa_svd

    def drawn(self: AdapterRun, index: int):
        read["adapters"].append((found := draw(self, index))[0])
        return found

    def backward(self: FactorRun, ids: torch.Tensor, *rest):
        read["factors"] += ids.unbind()
        return advance(self, ids, *rest)

    def refined(elastic, plan, windows, settings):
        read["aa-svd"] += windows.unbind()
        return first(elastic, plan, windows, settings)

    monkeypatch.setattr(AdapterRun, "_draw", drawn)
    monkeypatch.setattr(FactorRun, "_backward", backward)
    monkeypatch.setattr(method_comparison, "aa_svd", refined)
    finish(compare(fitted, tmp_path / "artifact", budget, ("svd-llm", "factors", "aa-svd"), (0.8,)))
    texts = {name: sorted(window.tolist() for window in windows) for name, windows in read.items()}
    assert len(texts["adapters"]) == budget.adapters.steps
    assert texts["adapters"] == texts["factors"] == texts["aa-svd"]


def test_a_cut_beyond_all_numbers_is_kept_as_such(fitted: str, budget: ComparisonConfig, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("acip_core.evaluation.fidelity.exp", lambda x: math.inf)
    results = run(fitted, budget, tmp_path, ("svd-magnitude",)).results
    assert all(r.perplexity == math.inf for r in results)
    json.loads((tmp_path / "artifact" / FILE).read_text())
    kept = read_comparison(tmp_path / "artifact")
    assert kept is not None and kept.results == results
