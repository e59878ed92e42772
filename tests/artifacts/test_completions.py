"""Completions made beforehand: as the live model writes them, and never trusted when damaged."""

import json

import pytest

from acip_core.artifacts.completions import FILE, Completions, read_completions, write_completions
from acip_core.errors import ArtifactError
from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.model.size_planner import BITS, BOTH, DIRECTIONS, MODES
from acip_core.model.tracks import tracks_of
from acip_core.pipelines.example_completions import complete_examples
from acip_core.progress import finish
from acip_core.storage.verified import write_json
from tests.support.coded import coded_elastic

PROMPTS = ("one two",)


@pytest.mark.parametrize("adapter_rank", [0, 2])
def test_every_size_of_every_mode_has_the_text_it_writes_alone(tmp_path, adapter_rank):
    elastic = coded_elastic(adapter_rank=adapter_rank)
    made = finish(complete_examples(elastic, PROMPTS))
    write_completions(made, tmp_path)
    assert read_completions(tmp_path) == made
    assert [(c.prompt, c.mode) for c in made] == [(prompt, mode) for prompt in PROMPTS for mode in MODES]
    tracks = tracks_of(elastic.planners)
    for found in made[:3]:
        track, engine = tracks[found.mode], Engine(elastic)
        assert list(found.texts) == list(track.distinct[:: 2 if found.mode == DIRECTIONS else 1])
        sampling = SamplingConfig(max_new_tokens=found.new_tokens, repetition_penalty=found.repetition_penalty)
        for percent, text in list(found.texts.items())[::7]:
            alone = engine.stream(found.prompt, track.plan_at(percent)[1], sampling)
            assert "".join(token.text for token in alone) == text
    bits, both = (next(c.texts for c in made if c.mode == mode) for mode in (BITS, BOTH))
    assert (bits == both) == (adapter_rank == 0)


def test_files_from_before_there_were_modes_are_read(tmp_path):
    former = {"prompt": "one", "new_tokens": 96, "texts": {"100": "a", "98": "b"}}
    write_json(tmp_path / FILE, {"completions": [former]})
    assert read_completions(tmp_path) == [Completions("one", 96, {100: "a", 98: "b"}, "directions", 1.0)]


def test_an_artifact_without_them(tmp_path):
    assert read_completions(tmp_path) == []


ENTRY = {"prompt": "a", "new_tokens": 3, "texts": {"100": "b"}}


@pytest.mark.parametrize(
    "content",
    ["", "[", "3", "[3]", "{}x", json.dumps([{"prompt": "a"}])]
    + [json.dumps([ENTRY | wrong]) for wrong in ({"texts": ["b"]}, {"texts": {"all": "b"}}, {"prompt": 3}, {"x": 1})]
    + [
        json.dumps([ENTRY | wrong])
        for wrong in ({"mode": "words"}, {"repetition_penalty": "1"}, {"texts": {"nan": "b"}})
    ]
    + [json.dumps([ENTRY | {"texts": {"1e3": "b"}}])],
)
def test_damaged(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ArtifactError, match=FILE):
        read_completions(tmp_path)
