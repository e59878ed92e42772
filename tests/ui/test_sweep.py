"""Texts of many sizes: what is kept, and which sizes come next."""

from acip_core.artifacts.completions import Completions
from acip_core.generation.engine import SamplingConfig
from acip_core.model.tracks import Track, directions_track
from acip_core.ui.sweep import Texts, first_batches, key_of, next_sizes
from tests.support.tiny import tiny_elastic

TRACK = directions_track(tiny_elastic().planner)


def test_a_key_holds_what_a_text_depends_on():
    greedy, drawn = SamplingConfig(), SamplingConfig(temperature=0.5)
    assert key_of("a", greedy, False) == key_of("a", SamplingConfig(seed=3, top_p=0.5, repetition_penalty=1), False)
    others = [key_of("a", drawn, False), key_of("a", SamplingConfig(0.5, seed=1), False), key_of("a", greedy, True)]
    others += [
        key_of("b", greedy, False),
        key_of("a", SamplingConfig(max_new_tokens=5), False),
        key_of("a", greedy, False),
        key_of("a", greedy, False, "both"),
        key_of("a", SamplingConfig(repetition_penalty=1.1), False),
    ]
    assert len(set(others)) == len(others)


def test_texts_made_beforehand_stay_and_others_make_room():
    texts = Texts([Completions("made", 8, {100: "x"}), Completions("made", 8, {28: "y"}, "both", 1.2)])
    made = key_of("made", SamplingConfig(max_new_tokens=8), False)
    texts.add(made, 100, "y")
    penalized = SamplingConfig(max_new_tokens=8, repetition_penalty=1.2)
    assert texts.known(key_of("made", penalized, False, "both")) == {28: "y"}
    assert texts.made_beforehand(made) and texts.known(made) == {100: "x"}
    for i in range(200):
        texts.add(str(i), 50, "z")
    assert texts.known("0") == {} and texts.known("199") == {50: "z"} and not texts.made_beforehand("199")


def test_the_size_asked_for_and_the_original_first_then_coarse_ones_and_the_gaps_around_the_slider():
    assert first_batches("prompt", {}, 62) == [[62, 100]]
    assert first_batches("prompt", {100: ""}, 62) == [[62]] and first_batches("prompt", {}, 100) == [[100]]
    assert first_batches("long " * 200, {}, 70) == [[70], [100]]  # its reading takes twice as long side by side
    known: dict[float, str] = {62: "", 100: ""}
    assert next_sizes("prompt", known, 62, TRACK) == [55, 70, 40, 85]
    order: list[float] = []
    while sizes := next_sizes("prompt", known, 62, TRACK):
        order += sizes
        known |= dict.fromkeys(sizes, "")
    assert order[4:6] == [60, 65] and set(range(30, 101, 5)) <= set(known) and len(order) == len(set(order))
    short = Track(TRACK.planner, tuple(range(52, 101)))
    assert min(next_sizes("prompt", {}, 52, short)) >= 52
    assert next_sizes("long " * 200, {}, 70, TRACK) == []
