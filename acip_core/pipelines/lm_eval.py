"""The benchmarks that people quote, run by lm-eval on the elastic model itself at several sizes.

Results are kept in `evaluation.json` beside the artifact as soon as they are there, so a killed run continues.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..artifacts.loading import open_model
from ..artifacts.task_results import TaskResult, read_evaluation, write_evaluation
from ..data.corpus import corpus_windows
from ..data.framing import framing
from ..errors import EvaluationError
from ..evaluation.perplexity import measure_perplexity
from ..model.context import fitting_window
from ..model.elastic_model import ElasticModel
from ..progress import Progress, Steps
from ..storage.locks import only_run

PAPER_TASKS = ("arc_easy", "arc_challenge", "hellaswag", "mathqa", "openbookqa", "piqa", "winogrande")
PAPER_CORPORA = ("wikitext2", "c4")
PAPER_WINDOW = 2048  # tokens, or the model's context where that is shorter
_MOST_WINDOWS = 64


def evaluate(
    source: str | None,
    ratios: Sequence[float],
    tasks: Sequence[str] = (*PAPER_TASKS, *PAPER_CORPORA),
    artifact: Path | None = None,
    limit: int | None = None,
    include: Path | None = None,
    batch_size: int = 8,
) -> Steps[list[TaskResult]]:
    """Measure tasks at several sizes; what was measured before is not measured again.

    Args:
        source: as `load_base`.
        tasks: names that lm-eval knows, or `wikitext2` and `c4` for perplexity per token on held-out text.
        artifact: its folder; that of the model's name by default. Results go there.
        limit: examples per task at most.
        include: folder with lm-eval tasks of one's own.

    Returns:
        All results of these tasks, sizes and limit.

    Raises:
        EvaluationError: lm-eval is missing or does not know a task, or a task's data cannot be had; said before the
            model is loaded.
        ModelError, ArtifactError, SizeError, CorpusError, StorageError: one sentence each.
    """
    prepared = _prepared([task for task in tasks if task not in PAPER_CORPORA], include)
    loaded = yield from open_model(source, artifact, same_weights=True)
    elastic, folder = loaded.elastic, loaded.folder
    plans = {ratio: elastic.planner.at_ratio(ratio) for ratio in sorted(set(ratios), reverse=True)}
    rounds = [(task, ratio) for task in tasks for ratio in plans]
    with only_run(folder):  # from reading on: all results are written anew with each
        results = read_evaluation(folder)
        for index, (task, ratio) in enumerate(rounds):
            yield Progress("evaluating", index, len(rounds), f"{task} at {ratio:.0%}")
            if any((r.task, r.ratio, r.limit) == (task, ratio, limit) for r in results):
                continue
            plan = plans[ratio]
            with elastic.at(plan):
                if task in prepared:
                    values = _scores(elastic, prepared[task], limit, batch_size)
                else:
                    values = yield from _perplexity(elastic, task, limit)
            results += [TaskResult(task, m, ratio, plan.parameters, plan.bytes, *v, limit) for m, v in values.items()]
            write_evaluation(results, folder)
        yield Progress("evaluating", len(rounds), len(rounds))
    return [r for r in results if r.task in tasks and r.ratio in plans and r.limit == limit]


Values = dict[str, tuple[float, float | None]]  # metric → value, standard error


def _perplexity(elastic: ElasticModel, corpus: str, limit: int | None) -> Steps[Values]:
    window = fitting_window(elastic.model, PAPER_WINDOW)
    windows = corpus_windows(elastic.tokenizer, corpus, "held-out", window)[: limit or _MOST_WINDOWS]
    for step in measure_perplexity(elastic.model, windows):
        yield Progress(f"perplexity, {corpus}", step.done, step.total, f"{step.value:.2f}")
    return {"perplexity": (step.value, (step.high - step.low) / 2)}


def _prepared(names: Sequence[str], include: Path | None) -> dict[str, Any]:
    """The lm-eval tasks of these names with their data."""
    if not names:
        return {}
    if include is not None and not include.is_dir():
        raise EvaluationError(f"There is no folder {include}; name one that holds lm-eval task files.")
    manager = _manager(include, defaults=include is None)
    if not set(names) <= set(manager.all_subtasks):
        manager = _manager(include)
    for name in names:
        if name not in manager.all_subtasks:
            near = difflib.get_close_matches(name, [*manager.all_subtasks, *PAPER_CORPORA], 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists those there are."
            raise EvaluationError(f"lm-eval has no task '{name}'; {hint}")
    try:
        return {name: manager.load([name])["tasks"][name] for name in names}
    except Exception as error:  # a data set that is missing, private or out of reach raises one of many kinds
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise EvaluationError(
            f"The data of a task cannot be had ({reason}); it comes from the Hub, so connect to the network or "
            "leave the task out."
        ) from error


@lru_cache(maxsize=3)  # with the defaults it reads thousands of files
def _manager(include: Path | None, defaults: bool = True) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise EvaluationError("lm-eval is not installed; run `pip install -r requirements-eval.txt`.") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is meant here
    return TaskManager(include_path=None if include is None else str(include), include_defaults=defaults)


def _scores(elastic: ElasticModel, task: Any, limit: int | None, batch_size: int) -> Values:
    """Every metric of a task at the size in force; lm-eval draws its own progress."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    frame = framing(elastic.tokenizer)
    model = HFLM(
        pretrained=elastic.model,
        tokenizer=elastic.tokenizer,
        backend="causal",
        batch_size=batch_size,
        add_bos_token=bool(frame.start),
        prefix_token_id=frame.lead[-1] if frame.lead else None,
    )
    known = _manager(None, defaults=False)  # of none: left out, all of lm-eval's would be read anew
    found = simple_evaluate(model, tasks=[task], limit=limit, log_samples=False, task_manager=known)
    (found_here,) = (found or {})["results"].values()
    values: Values = {}
    for key, value in found_here.items():
        metric, _, filtered = key.partition(",")
        if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = found_here.get(f"{metric}_stderr,{filtered}")
        name = metric if filtered == "none" else f"{metric} ({filtered})"
        values[name] = (float(value), float(error) if isinstance(error, int | float) else None)
    return values
