"""The registry of methods and corpora, and the ids of files that were written before it."""

from __future__ import annotations

import pytest

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.comparison import read_comparison
from acip_core.data.corpus import CORPORA as SOURCES
from acip_core.evaluation.methods import (
    CORPORA,
    METHODS,
    PEERS,
    artifact_method,
    corpus_title,
    current_id,
    current_label,
    curve_title,
    method_title,
    relative_title,
)
from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.pipelines.method_comparison import METHODS as MEASURED
from benchmarks.peers.measure import METHODS as PEERS_MEASURED


def test_everything_that_is_measured_is_registered() -> None:
    assert set(MEASURED) == set(METHODS) and tuple(CORPORA) == SOURCES
    assert set(PEERS_MEASURED) == set(PEERS)
    titles = [entry.title for entry in (*METHODS.values(), *PEERS.values(), *CORPORA.values())]
    assert len(set(titles)) == len(titles) and all(m.description for m in (*METHODS.values(), *PEERS.values()))


ITERATED, WARM, PUBLISHED = {"stages": [1.0]}, {"pruning": {"warm_start": 0.7}}, {"pruning": {"warm_start": 0.0}}


@pytest.mark.parametrize(
    ("label", "recipe", "current"),
    [
        ("fisher+adapters", {}, "fisher-envelope+adapters"),
        ("fisher", {}, "fisher-envelope"),
        ("fisher+adapters, tuned at 60%, int8", ITERATED, "fisher-iterated+adapters, tuned at 60%, int8"),
        ("acip+adapters", WARM, "acip-small+adapters"),
        ("acip+adapters", PUBLISHED, "acip+adapters"),
        ("acip, int4", {}, "acip, int4"),
        ("svd-llm", WARM, "svd-llm"),
        ("fisher-envelope", ITERATED, "fisher-envelope"),
        ("fisherman", {}, "fisherman"),
    ],
)
def test_former_labels_of_artifacts(label: str, recipe: dict, current: str) -> None:
    assert current_label(label, recipe) == current
    assert current_label(current, recipe) == current


def test_a_recipe_names_its_method() -> None:
    recipes = ({}, {"pruning": None} | ITERATED, WARM, PUBLISHED, {"scorer": "predicted"})
    made = [artifact_method(recipe) for recipe in recipes]
    assert made == ["fisher-envelope", "fisher-iterated", "acip-small", "acip", "predicted"]


def test_former_ids_of_comparisons() -> None:
    assert [current_id(name) for name in ("ours", "iterated", "fisher", "asvd")] == [
        "fisher-envelope", "fisher-iterated", "fisher-density", "asvd",
    ]  # fmt: skip
    comparison = read_comparison(default_artifact(DEFAULT_MODEL))
    assert comparison is not None and {result.method for result in comparison.results} <= set(METHODS)


def test_titles() -> None:
    assert method_title("svd-llm", True) == "SVD-LLM, adapters"
    assert method_title("artifact", True) == "this project's artifact" and method_title("mine, too") == "mine, too"
    assert curve_title("fisher-envelope+adapters, int8") == "Fisher on the envelope, adapters, int8"
    assert curve_title("predicted+factors, int8") == "two-sided basis, trained factors, int8"
    assert relative_title("predicted", "predicted+factors") == "before training"
    assert curve_title("mine+adapters") == "mine, adapters" and corpus_title("a.txt") == "a.txt"


@pytest.mark.parametrize(
    ("label", "own", "title"),
    [
        ("acip, int8", "acip", "int8"),
        ("acip", "acip, int8", "full precision"),
        ("acip, int4", "acip, int8", "int4"),
        ("acip", "acip+adapters", "no adapters"),
        ("acip", "acip+adapters, int4", "no adapters"),
        ("acip+adapters", "acip+adapters, tuned at 60%", "before tuning"),
        ("svd-llm", "acip+adapters", "SVD-LLM"),
        ("svd-llm, int8", "acip+adapters", "SVD-LLM, int8"),
    ],
)
def test_titles_beside_the_own_curve(label: str, own: str, title: str) -> None:
    assert relative_title(label, own) == title
