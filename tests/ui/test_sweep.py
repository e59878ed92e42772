"""Texts of many sizes: what is kept, and which sizes come next."""

from acip_core.artifacts.completions import Completions
from acip_core.generation.engine import SamplingConfig
from acip_core.ui.sweep import Texts, first_sizes, key_of, next_sizes


def test_a_key_holds_what_a_text_depends_on():
    greedy, drawn = SamplingConfig(), SamplingConfig(temperature=0.5)
    assert key_of("a", greedy, False) == key_of("a", SamplingConfig(seed=3, top_p=0.5), False)
    others = [key_of("a", drawn, False), key_of("a", SamplingConfig(0.5, seed=1), False), key_of("a", greedy, True)]
    others += [
        key_of("b", greedy, False),
        key_of("a", SamplingConfig(max_new_tokens=5), False),
        key_of("a", greedy, False),
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
        first = first_sizes("prompt", percent, 30)
        assert first[0] == percent and len(first) == len(set(first)) == 5
    known = dict.fromkeys(first_sizes("prompt", 62, 30), "")
    assert next_sizes("prompt", known, 62, 30)[:2] == [60, 65]
    order = []
    while sizes := next_sizes("prompt", known, 62, 30):
        order += sizes
        known |= dict.fromkeys(sizes, "")
    assert set(range(30, 101, 5)) <= set(known) and len(order) == len(set(order))
    assert min(first_sizes("prompt", 80, 52) + next_sizes("prompt", {}, 52, 52)) >= 52
    assert first_sizes("long " * 200, 70, 30) == [70] and next_sizes("long " * 200, {}, 70, 30) == []
