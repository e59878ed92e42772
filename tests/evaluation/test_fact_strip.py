"""A few facts that stand for all: balanced over groups, and no rosier or darker than the whole at any size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from acip_core.evaluation.fact_strip import choose_strip
from acip_core.evaluation.facts import FACTS, SKILLS
from acip_core.evaluation.skill_sentences import GROUPS

ALL = FACTS + SKILLS
FIELDS, ANSWERS = [fact.field for fact in ALL], [fact.answer for fact in ALL]
GROUP = {field: group for group, fields in GROUPS.items() for field in fields}


def fading(seed: int) -> np.ndarray:
    """(60, facts): every fact goes out at a size of its own, and some flicker there."""
    source = np.random.default_rng(seed)
    lasts = source.integers(1, 61, len(ALL))
    known = np.arange(60)[:, None] < lasts
    flickers = source.random(known.shape) < 0.03
    return known ^ (flickers & (np.arange(60)[:, None] > 0))


def chosen(known: np.ndarray, fits: list[bool] | None = None, count: int = 36) -> list[int]:
    return choose_strip(known, FIELDS, ANSWERS, fits or [True] * len(ALL), GROUPS, count)


def test_every_field_has_its_group() -> None:
    assert set(FIELDS) == set(GROUP) and sum(map(len, GROUPS.values())) == len(GROUP)


@pytest.mark.parametrize("seed", range(3))
def test_its_share_is_that_of_the_whole_at_every_size(seed: int) -> None:
    known = fading(seed)
    strip = chosen(known)
    assert strip == chosen(known)
    gap = np.abs(known[:, strip].mean(1) - known.mean(1))
    assert gap.max() < 0.06
    others = np.random.default_rng(seed).permuted(np.tile(np.arange(len(ALL)), (50, 1)), axis=1)[:, :36]
    drawn = [np.abs(known[:, list(other)].mean(1) - known.mean(1)).max() for other in others]
    assert gap.max() < min(drawn)


def test_groups_and_fields_have_their_places_and_no_answer_comes_twice() -> None:
    strip = chosen(fading(5))
    groups = [GROUP[FIELDS[i]] for i in strip]
    assert len(strip) == len(set(strip)) == 36 and groups == [group for group in GROUPS for _ in range(6)]
    of_fields = Counter(FIELDS[i] for i in strip)
    assert all(count <= -(-6 // len(GROUPS[GROUP[field]])) for field, count in of_fields.items())
    assert len({ANSWERS[i].lower() for i in strip}) == 36


def test_only_what_fits_is_shown_and_a_group_with_few_stays_short() -> None:
    fits = [GROUP[field] != "Skills" and len(answer) < 8 for field, answer in zip(FIELDS, ANSWERS, strict=True)]
    fits[FIELDS.index("code")] = True
    strip = chosen(fading(6), fits)
    assert all(fits[i] for i in strip) and sum(GROUP[FIELDS[i]] == "Skills" for i in strip) == 1
    assert chosen(fading(6), [False] * len(ALL)) == []
    assert choose_strip(np.zeros((3, 0), bool), [], [], [], GROUPS) == []


def test_long_answers_stand_beside_short_ones() -> None:
    strip = chosen(fading(7))
    for start in range(0, 36, 6):
        lengths = [len(ANSWERS[i]) for i in strip[start : start + 6]]
        assert lengths[::2] == sorted(lengths[::2], reverse=True) and lengths[1::2] == sorted(lengths[1::2])
        assert min(lengths[::2]) >= max(lengths[1::2])
