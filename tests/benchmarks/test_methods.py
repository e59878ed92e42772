"""The excess against other methods: the worse corpus counts, and of theirs the best at each size."""

from __future__ import annotations

import pytest

from acip_core.artifacts.comparison import Comparison, Result
from benchmarks.methods import excesses


def result(method: str, adapters: bool, corpus: str, wanted: float, perplexity: float) -> Result:
    return Result(method, adapters, corpus, wanted, wanted, 1, 2, perplexity, 0.1, 0.9)


def compared(*results: Result) -> Comparison:
    return Comparison({}, {"c4": 10.0, "wikipedia": 20.0}, results)


def both(method: str, adapters: bool, wanted: float, c4: float, wikipedia: float) -> tuple[Result, Result]:
    return result(method, adapters, "c4", wanted, 10 * c4), result(
        method, adapters, "wikipedia", wanted, 20 * wikipedia
    )


def test_the_best_of_the_others_counts_at_each_size():
    figures = excesses(
        compared(
            *both("factors", False, 0.8, 1.2, 1.3), *both("factors", False, 0.6, 2.0, 1.5),
            *both("svd-llm", False, 0.8, 3.0, 2.0), *both("svd-llm", True, 0.8, 1.5, 1.2),
            *both("aa-svd", False, 0.8, 1.9, 1.1), *both("aa-svd", False, 0.6, 1.5, 3.0),
            *both("predicted", True, 0.8, 1.01, 1.01),  # this project's own
        )
    )  # fmt: skip
    assert [figure.name.split(" ÷")[0] for figure in figures] == [
        "excess of perplexity at 80%",
        "excess of perplexity at 60%",
    ]
    assert [figure.value for figure in figures] == [pytest.approx(0.3 / 0.5), pytest.approx(1.0 / 2.0)]
    assert all(figure.target == 0.7 for figure in figures)


def test_sizes_without_a_rival_have_no_figure():
    half = result("svd-llm", True, "c4", 0.8, 15.0)  # the other corpus is missing
    assert excesses(compared(*both("factors", False, 0.8, 1.2, 1.3), half)) == []
    assert excesses(compared(*both("aa-svd", False, 0.8, 1.2, 1.3))) == []
