"""Columns of the comparison: what is judged of them."""

import pytest

from acip_core.generation.tokens import Token
from acip_core.ui.columns import Column, repetitions


@pytest.mark.parametrize(
    ("ids", "repeated"),
    [
        ([], []),
        ([1, 2, 3, 4], []),
        ([1, 1, 1], []),
        ([1, 1, 1, 1], [1, 2, 3]),
        ([1, 2, 3, 9, 1, 2, 3, 8], [4, 5, 6]),
        ([1, 2, 9, 1, 2, 8], []),
    ],
)
def test_what_belongs_to_a_trigram_of_before_is_repeated(ids: list[int], repeated: list[int]) -> None:
    assert repetitions(ids) == repeated


def test_a_loop_that_is_likely_is_told_as_a_loop() -> None:
    column, full = Column(60), Column(100)
    for i in range(12):
        column.add(Token(f" {i % 3}", i + 1, 1, 1, id=i % 3, probabilities=(0.99,)))
        full.add(Token(f" {i}", i + 1, 1, 1, id=i))
    message = column.message(full)
    assert message["repeated"] == list(range(3, 12)) and message["parted"] == 3
