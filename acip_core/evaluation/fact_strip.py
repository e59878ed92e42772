"""A few facts that stand for all that were measured: what a page shows of them, chosen by a rule and not by hand."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

STRIP = 36  # facts of a strip
LONGEST_ANSWER = 8  # characters, of what a tile has room for


def choose_strip(
    known: np.ndarray,
    fields: Sequence[str],
    answers: Sequence[str],
    fits: Sequence[bool],
    groups: Mapping[str, Sequence[str]],
    count: int = STRIP,
) -> list[int]:
    """Facts of which, at every size, about the same share is known as of all.

    Every group has as many places as any other, a field at most its part of them, no answer comes twice. From the first
    such choice on, the exchange of two facts of a group that helps most is made until none helps: the distance is
    that of the shares known, squared, summed over all sizes.

    Args:
        known: which size knows which fact, bool (sizes, facts).
        fields, answers: of the facts.
        fits: whether a fact may be shown.
        groups: fields by the group that they are shown in; facts of other fields are left out.

    Returns:
        Indices of the facts, group by group; in a group the longest answer, the shortest, the next longest and so on,
        so that two share a line.
    """
    group_of = {field: group for group, of in groups.items() for field in of}
    places = count // len(groups)
    most = {group: -(-places // len(of)) for group, of in groups.items()}
    allowed = [i for i, field in enumerate(fields) if fits[i] and field in group_of]

    def has_room(index: int, others: Sequence[int]) -> bool:
        field, group = fields[index], group_of[fields[index]]
        in_group = [fields[i] for i in others if group_of[fields[i]] == group]
        taken = {answers[i].strip().lower() for i in others}
        return (
            len(in_group) < places
            and Counter(in_group)[field] < most[group]
            and answers[index].strip().lower() not in taken
        )

    chosen: list[int] = []
    for index in allowed:
        if has_room(index, chosen):
            chosen.append(index)
    matrix = known.astype(np.float64)  # (sizes, facts)
    if chosen:
        _exchange(chosen, allowed, matrix, has_room, [group_of.get(field, "") for field in fields])
    lines = []
    for group in groups:
        own = sorted((i for i in chosen if group_of[fields[i]] == group), key=lambda i: (-len(answers[i]), i))
        half = -(-len(own) // 2)
        pairs = itertools.zip_longest(own[:half], reversed(own[half:]))
        lines += [index for pair in pairs for index in pair if index is not None]
    return lines


def _exchange(
    chosen: list[int],
    allowed: Sequence[int],
    matrix: np.ndarray,
    has_room: Callable[[int, Sequence[int]], bool],
    group: Sequence[str],
) -> None:
    """The exchanges of `choose_strip`, in place."""
    wanted = matrix.mean(1) * len(chosen)
    while True:
        gap = matrix[:, chosen].sum(1) - wanted  # (sizes,)
        best, found = float((gap**2).sum()) - 1e-9, None
        for place, old in enumerate(chosen):
            others = [*chosen[:place], *chosen[place + 1 :]]
            new = [i for i in allowed if i not in chosen and group[i] == group[old]]
            distances = ((gap - matrix[:, old])[:, None] + matrix[:, new]) ** 2  # (sizes, new)
            for distance, index in sorted(zip(distances.sum(0).tolist(), new, strict=True)):
                if distance >= best:
                    break
                if has_room(index, others):
                    best, found = distance, (place, index)
                    break
        if found is None:
            return
        chosen[found[0]] = found[1]
