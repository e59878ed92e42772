"""lm-eval on the elastic model: tasks over a small local file, at several sizes, interrupted or not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.task_results import FILE, TaskResult, read_evaluation, write_evaluation
from acip_core.artifacts.writer import write_artifact
from acip_core.data import corpus
from acip_core.errors import ArtifactError, EvaluationError, StorageError
from acip_core.figures.tasks import task_pictures
from acip_core.pipelines import lm_eval as harness
from acip_core.pipelines.lm_eval import evaluate
from acip_core.progress import Progress, finish
from acip_core.storage.locks import only_run
from acip_core.storage.verified import read_json
from tests.support.commands import run
from tests.support.tiny import save, tiny_artifact, tiny_base

pytestmark = pytest.mark.long

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{{target}}}}}"
{choices}
metric_list:
  - metric: {metric}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": f"Word {i} is", "choices": ["a", "the", "nine"], "label": i % 3, "text": "so"} for i in range(6)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for name, kind, target, metric in (
        ("picked", "multiple_choice", "label", "acc"),
        ("written", "generate_until", "text", "exact_match"),
    ):
        choices = 'doc_to_choice: "{{choices}}"' if name == "picked" else "generation_kwargs:\n  max_gen_toks: 4"
        text = TASK.format(
            name=name, data=folder / "rows.jsonl", kind=kind, target=target, metric=metric, choices=choices
        )
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def model(cache: Path, tmp_path: Path) -> str:
    base = tiny_base()
    save(base, tmp_path / "tiny-llama")
    write_artifact(tiny_artifact(base), tmp_path / "artifact")
    return str(tmp_path / "tiny-llama")


def test_every_task_is_measured_at_every_size_once(model: str, tasks: Path, tmp_path: Path, monkeypatch) -> None:
    artifact = tmp_path / "artifact"
    found = finish(evaluate(model, [1.0, 0.6], ["picked", "written"], artifact, include=tasks))
    assert {(r.task, r.metric, r.ratio) for r in found} == {
        (task, metric, ratio)
        for task, metric in (("picked", "acc"), ("written", "exact_match"))
        for ratio in (1.0, 0.6)
    }
    assert all(0 <= r.value <= 1 for r in found) and found[0].parameters > found[1].parameters
    monkeypatch.setattr(harness, "_scores", lambda *_: pytest.fail("measured again"))
    assert finish(evaluate(model, [1.0, 0.6], ["picked"], artifact, include=tasks)) == found[:2]


def test_the_size_in_force_is_what_is_measured(model: str, tasks: Path, tmp_path: Path) -> None:
    """What lm-eval computes at a size is what it computes of the exported model."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from acip_core.artifacts.export import export
    from acip_core.artifacts.loading import open_model

    found = finish(evaluate(model, [0.5], ["picked"], tmp_path / "artifact", include=tasks))
    loaded = finish(open_model(model, tmp_path / "artifact"))
    finish(export(loaded.elastic, loaded.artifact, loaded.elastic.planner.at_ratio(0.5), tmp_path / "out"))
    plain = HFLM(pretrained=str(tmp_path / "out"), device="cpu", trust_remote_code=True, dtype="float32")
    task = harness._prepared(["picked"], tasks)["picked"]
    results = simple_evaluate(plain, tasks=[task], log_samples=False, task_manager=harness._manager(None, False))
    assert results is not None and results["results"]["picked"]["acc,none"] == found[0].value


def test_a_killed_run_continues(model: str, tasks: Path, tmp_path: Path) -> None:
    def kill(step: Progress) -> None:
        if step.done == 1 and step.stage == "evaluating":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(evaluate(model, [1.0, 0.6], ["picked"], tmp_path / "artifact", include=tasks), kill)
    assert [r.ratio for r in read_evaluation(tmp_path / "artifact")] == [1.0]


def test_results_of_a_former_artifact_are_measured_again(
    model: str, tasks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "artifact"
    before = finish(evaluate(model, [0.6], ["picked"], folder, include=tasks))
    artifact = read_artifact(folder)
    write_artifact(replace(artifact, curves=()), folder)
    assert read_evaluation(folder) == before and not caplog.messages
    write_artifact(replace(artifact, scores={name: s.flip(0) for name, s in artifact.scores.items()}), folder)
    assert read_evaluation(folder) == [] and "before its artifact changed" in caplog.text
    after = finish(evaluate(model, [0.6], ["picked"], folder, include=tasks))
    assert read_evaluation(folder) == after
    rows = read_json(folder / FILE)["results"]
    (folder / FILE).write_text(json.dumps({"results": rows}))  # as former versions wrote it
    assert read_evaluation(folder) == []


def test_a_second_run_at_once_is_refused(model: str, tasks: Path, tmp_path: Path) -> None:
    with only_run(tmp_path / "artifact"), pytest.raises(StorageError, match="Another run is writing"):
        finish(evaluate(model, [1.0], ["picked"], tmp_path / "artifact", include=tasks))


def test_perplexity_in_the_paper_s_windows(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "documents", lambda name, split: ["some text that is not long"] * 60)
    (result,) = finish(evaluate(model, [1.0], ["c4"], tmp_path / "artifact", limit=2))
    assert result.metric == "perplexity" and 1 < result.value < math.inf


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tasks", "arc_easi"), "no task 'arc_easi'; did you mean arc_easy"),
        (("--tasks", "picked", "--include", "/nowhere"), "no folder /nowhere"),
        (("--sizes", "1.0,half"), "numbers separated by commas"),
        (("--sizes", "1.2", "--tasks", "picked"), "1.2"),
    ],
)
def test_a_mistake_is_one_sentence(
    model: str,
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    own = () if "--include" in arguments else ("--include", str(tasks))
    code, output = run(
        monkeypatch, capsys, "evaluate", model, "--artifact", str(tmp_path / "artifact"), *own, *arguments
    )
    assert code == 2 and words in " ".join(output.split())


def test_data_out_of_reach_is_one_sentence(tasks: Path, tmp_path: Path) -> None:
    text = (tasks / "picked.yaml").read_text().replace("rows.jsonl", "absent.jsonl").replace("picked", "absent")
    (tmp_path / "absent.yaml").write_text(text)
    with pytest.raises(EvaluationError, match=r"data of a task cannot be had .*absent\.jsonl.*; it comes from the Hub"):
        finish(evaluate(None, [1.0], ["absent"], include=tmp_path))


def test_the_file(tmp_path: Path) -> None:
    result = TaskResult("t", "acc", 1.0, 10, 40, 0.5, None, None)
    results = [result, replace(result, value=math.inf, metric="perplexity", error=0.1)]
    write_evaluation(results, tmp_path)
    assert read_evaluation(tmp_path) == results
    (tmp_path / FILE).write_text("[{}]")
    with pytest.raises(ArtifactError, match="damaged"):
        read_evaluation(tmp_path)


def test_one_curve_per_task() -> None:
    one = TaskResult("one", "acc", 1.0, 10, 40, 0.5, 0.1, 4)
    results = [
        one,
        replace(one, ratio=0.5, value=0.3),
        replace(one, task="two", metric="exact_match"),
        replace(one, metric="acc_norm"),
        replace(one, limit=None, value=0.6),
        replace(one, task="c4", metric="perplexity", value=20.0),
    ]
    (picture,) = task_pictures(results)
    assert [line.name for line in picture.figure.data] == ["one", "two"]
    assert list(picture.figure.data[0].x) == [50, 100] and list(picture.figure.data[0].y) == [30, 60]
    assert task_pictures(results[-1:]) == []
