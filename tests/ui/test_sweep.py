"""Texts of many sizes: what is kept, and which sizes come next."""

from acip_core.artifacts.completions import Completions
from acip_core.figures.tracks import Track, directions_track
from acip_core.generation.engine import SamplingConfig
from acip_core.ui.sweep import Texts, first_sizes, key_of, next_sizes
from tests.support.tiny import tiny_elastic

TRACK = directions_track(tiny_elastic().planner)


def test_a_key_holds_what_a_text_depends_on():
    greedy, drawn = SamplingConfig(), SamplingConfig(temperature=0.5)
    assert key_of("a", greedy, False) == key_of("a", SamplingConfig(seed=3, top_p=0.5), False)
    others = [key_of("a", drawn, False), key_of("a", SamplingConfig(0.5, seed=1), False), key_of("a", greedy, True)]
    others += [
        key_of("b", greedy, False),
        key_of("a", SamplingConfig(max_new_tokens=5), False),
        key_of("a", greedy, False),
        key_of("a", greedy, False, "both"),
    ]
    assert len(set(others)) == len(others)


def test_texts_made_beforehand_stay_and_others_make_room():
    texts = Texts([Completions("made", 8, {100: "x"})])
    made = key_of("made", SamplingConfig(max_new_tokens=8), False)
    texts.add(made, 100, "y")
    assert texts.made_beforehand(made) and texts.known(made) == {100: "x"}
    for i in range(200):
        texts.add(str(i), 50, "z")
    assert texts.known("0") == {} and texts.known("199") == {50: "z"} and not texts.made_beforehand("199")


def test_coarse_sizes_first_then_the_gaps_around_the_slider():
    for percent in range(30, 101):
        first = first_sizes("prompt", percent, TRACK)
        assert first[0] == percent and len(first) == len(set(first)) == 5
    known = dict.fromkeys(first_sizes("prompt", 62, TRACK), "")
    assert next_sizes("prompt", known, 62, TRACK)[:2] == [60, 65]
    order = []
    while sizes := next_sizes("prompt", known, 62, TRACK):
        order += sizes
        known |= dict.fromkeys(sizes, "")
    assert set(range(30, 101, 5)) <= set(known) and len(order) == len(set(order))
    short = Track(TRACK.planner, tuple(range(52, 101)))
    assert min(first_sizes("prompt", 80, short) + next_sizes("prompt", {}, 52, short)) >= 52
    assert first_sizes("long " * 200, 70, TRACK) == [70] and next_sizes("long " * 200, {}, 70, TRACK) == []
