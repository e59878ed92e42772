"""A prompt that was read at a size is not read there again, and every text is what it is without that."""

from __future__ import annotations

import pytest
import torch

from acip_core.generation.engine import Engine
from acip_core.generation.native_code import native_code
from acip_core.generation.sampling import SamplingConfig
from acip_core.model.elastic_model import ElasticModel

SHORT, OTHER = "Once upon a time there was", "Once upon a time there wa"  # tokens are characters
DRAWN = SamplingConfig(temperature=0.8, top_p=0.9, seed=7, max_new_tokens=12, repetition_penalty=1.2)


@pytest.fixture
def native() -> None:
    if native_code() is None:
        pytest.skip("this machine compiles no native code")


def written(engine: Engine, prompt: str, size: float, passes: list[int]) -> list[int]:
    """The ids of a text; `passes` gets the tokens of each pass that was run for it."""
    forward = engine.forward

    def counted(ids: torch.Tensor, *arguments, **options):
        passes.append(ids.numel())
        return forward(ids, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "forward", counted)
        steps = list(engine.stream(prompt, engine.elastic.planner.at_ratio(size), DRAWN))
    assert steps[-1].count == 12 and {step.prompt_tokens for step in steps} == {len(prompt)}
    return [step.id for step in steps if step.count]


@pytest.mark.usefixtures("native")
def test_a_prompt_is_read_once_at_each_size(elastic: ElasticModel) -> None:
    engine, plain = Engine(elastic, kept=200), Engine(elastic)
    for times in range(3):
        for prompt in (SHORT, OTHER):
            for size in (1.0, 0.6):
                first, every = [], []
                assert written(engine, prompt, size, first) == written(plain, prompt, size, every)
                assert sum(every) == len(prompt) + 11 and first == ([1] * 12 if times else every)


@pytest.mark.usefixtures("native")
def test_of_more_than_there_is_room_for_the_oldest_are_read_again(elastic: ElasticModel) -> None:
    engine = Engine(elastic, kept=2 * len(SHORT))
    for prompt, is_known in ((SHORT, False), (OTHER, False), (SHORT, True), ("Another prompt", False), (OTHER, False)):
        passes: list[int] = []
        written(engine, prompt, 0.6, passes)
        assert (passes[0] == 1) is is_known


@pytest.mark.parametrize("kept", [0, 1000])
def test_long_prompts_and_engines_without_room_read_everything(elastic: ElasticModel, kept: int) -> None:
    engine, prompt = Engine(elastic, kept), "x" * 40 if kept else SHORT
    for _ in range(2):
        passes: list[int] = []
        written(engine, prompt, 0.6, passes)
        assert passes[0] > 1
