"""Completions made beforehand: as the live model writes them, and never trusted when damaged."""

import json

import pytest

from acip_core.artifacts.completions import FILE, read_completions, write_completions
from acip_core.errors import ArtifactError
from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.pipelines.example_completions import complete_examples
from acip_core.progress import finish
from tests.support.visitor import tiny_loaded

PROMPTS = ("one two", "three")


def test_every_size_has_the_text_it_writes_alone(tmp_path):
    elastic = tiny_loaded().elastic
    made = finish(complete_examples(elastic, PROMPTS))
    write_completions(made, tmp_path)
    assert read_completions(tmp_path) == made and [c.prompt for c in made] == list(PROMPTS)
    engine = Engine(elastic)
    for percent, text in made[0].texts.items():
        plan = elastic.planner.at_ratio(percent / 100)
        alone = engine.stream(PROMPTS[0], plan, SamplingConfig(max_new_tokens=made[0].new_tokens))
        assert "".join(token.text for token in alone) == text
    smallest = 100 * elastic.planner.smallest / elastic.planner.base_target_parameters
    assert max(made[0].texts) == 100 and min(made[0].texts) - max(30, smallest) < 2


def test_an_artifact_without_them(tmp_path):
    assert read_completions(tmp_path) == []


ENTRY = {"prompt": "a", "new_tokens": 3, "texts": {"100": "b"}}


@pytest.mark.parametrize(
    "content",
    ["", "[", "3", "[3]", "{}x", json.dumps([{"prompt": "a"}])]
    + [json.dumps([ENTRY | wrong]) for wrong in ({"texts": ["b"]}, {"texts": {"all": "b"}}, {"prompt": 3}, {"x": 1})],
)
def test_damaged(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ArtifactError, match=FILE):
        read_completions(tmp_path)
