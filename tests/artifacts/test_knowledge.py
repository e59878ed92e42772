"""The file of what every size knows: written, read, refused where damaged, left out where it is of something else."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.knowledge import (
    FILE,
    KNOWING,
    Knowledge,
    KnownSizes,
    fitting_knowledge,
    opening,
    read_knowledge,
    write_knowledge,
)
from acip_core.artifacts.loading import Loaded
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import ArtifactError
from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.model.size_planner import BITS, DIRECTIONS
from acip_core.storage.verified import read_tensors, save_tensors
from tests.support.knowledge import with_knowledge
from tests.support.tiny import random_scores, tiny_tokenizer
from tests.support.visitor import tiny_loaded


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return with_knowledge(tiny_loaded())


@pytest.fixture
def folder(loaded: Loaded, tmp_path: Path) -> Path:
    write_artifact(loaded.artifact, tmp_path / "artifact")
    assert loaded.knowledge is not None
    write_knowledge(loaded.knowledge, tmp_path / "artifact")
    return tmp_path / "artifact"


def same(a: Knowledge | None, b: Knowledge | None) -> bool:
    assert a is not None and b is not None
    told = (a.facts, a.tokens, a.strip, a.vocabulary, a.modes.keys()) == (
        b.facts, b.tokens, b.strip, b.vocabulary, b.modes.keys(),
    )  # fmt: skip
    return told and all(
        torch.equal(value, getattr(b.modes[mode], part))
        for mode, of in a.modes.items()
        for part, value in vars(of).items()
        if isinstance(value, torch.Tensor)
    )


def test_what_is_written_is_read(loaded: Loaded, folder: Path) -> None:
    assert same(read_knowledge(folder), loaded.knowledge)
    (folder / FILE).unlink()
    assert read_knowledge(folder) is None


def test_no_bit_of_it_can_flip(folder: Path) -> None:
    whole = (folder / FILE).read_bytes()
    for place in random.Random(1).sample(range(8 * len(whole)), 200):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        (folder / FILE).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=f"{re.escape(str(folder / FILE))} .*measure knowledge"):
            read_knowledge(folder)


def _put(part: str, index: tuple[int, ...], value: float) -> Callable[[dict, dict], None]:
    def change(tensors: dict[str, torch.Tensor], described: dict[str, Any]) -> None:
        tensors[f"{DIRECTIONS}.{part}"][index] = value

    return change


def _say(key: str, value: Callable[[Any], Any]) -> Callable[[dict, dict], None]:
    def change(tensors: dict[str, torch.Tensor], described: dict[str, Any]) -> None:
        described[key] = value(described[key])

    return change


DAMAGES: dict[str, Callable[[dict, dict], None]] = {
    "NaN": _put("probability", (3, 2), float("nan")),
    "above one": _put("top_probability", (3, 2, 0), 1.5),
    "negative": _put("probability", (3, 2), -0.1),
    "rank 0": _put("rank", (3, 2), 0),
    "rank beyond the vocabulary": _put("rank", (3, 2), 129),
    "the full model forgot": _put("rank", (0, 1), 2),
    "no token": _put("top", (3, 2, 1), 128),
    "sizes that grow": _put("bytes", (0,), 1),
    "one fact fewer": _say("facts", lambda facts: facts[:-1]),
    "a fact of no field": _say("facts", lambda facts: [["gossip", "A", " b"], *facts[1:]]),
    "a fact without an answer": _say("facts", lambda facts: [[facts[0][0], "A", ""], *facts[1:]]),
    "facts": _say("facts", lambda facts: 3),
    "a strip of others": _say("strip", lambda strip: [*strip[:-1], 10**6]),
    "a fact twice in the strip": _say("strip", lambda strip: [strip[0], *strip[:-1]]),
    "true as an index": _say("strip", lambda strip: [True, *strip[1:]]),
    "answers of another vocabulary": _say("tokens", lambda tokens: [500, *tokens[1:]]),
    "vocabulary": _say("vocabulary", lambda count: "many"),
    "another mode": _say("made_from", lambda made: {"speed": "a"}),
    "a mode without tensors": _say("made_from", lambda made: {**made, BITS: "a"}),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_numbers_that_cannot_be(folder: Path, case: str) -> None:
    tensors, metadata = read_tensors(folder / FILE)
    described = json.loads(metadata["knowledge"])
    DAMAGES[case](tensors, described)
    save_tensors(tensors, folder / FILE, {"knowledge": json.dumps(described)})
    with pytest.raises(ArtifactError, match="is damaged") as caught:
        read_knowledge(folder)
    assert FILE in str(caught.value) and "\n" not in str(caught.value)


def test_of_other_types(folder: Path) -> None:
    tensors, metadata = read_tensors(folder / FILE)
    for name, tensor in tensors.items():
        changed = {**tensors, name: tensor.to(torch.float64)}
        save_tensors(changed, folder / FILE, metadata)
        with pytest.raises(ArtifactError, match=re.escape(name)):
            read_knowledge(folder)
    save_tensors({**tensors, "more": torch.zeros(1)}, folder / FILE, metadata)
    with pytest.raises(ArtifactError, match="other tensors"):
        read_knowledge(folder)
    save_tensors(tensors, folder / FILE)
    with pytest.raises(ArtifactError, match="damaged"):
        read_knowledge(folder)


def test_of_directions_that_were_made_since_nothing_is_known(
    loaded: Loaded, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_artifact(loaded.artifact, folder)  # the same ones
    assert same(read_knowledge(folder), loaded.knowledge) and not caplog.text
    other = replace(loaded.artifact, scores=random_scores(loaded.elastic.base, 8))
    write_artifact(other, folder)
    assert read_knowledge(folder) is None and "measure knowledge" in caplog.text


def test_codes_that_were_made_since_leave_the_directions(loaded: Loaded, folder: Path) -> None:
    assert loaded.knowledge is not None
    sizes = loaded.knowledge.modes[DIRECTIONS]
    copied = KnownSizes(*(getattr(sizes, part.name).clone() for part in fields(KnownSizes)))
    write_knowledge(replace(loaded.knowledge, modes={DIRECTIONS: sizes, BITS: copied}), folder)
    (folder / "coding.safetensors").write_bytes(b"others")
    found = read_knowledge(folder)
    assert found is not None and found.modes.keys() == {DIRECTIONS}


def test_another_vocabulary_or_tokenizer(loaded: Loaded, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fitting_knowledge(folder, tiny_tokenizer(), 128) is not None and not caplog.text
    assert fitting_knowledge(folder, tiny_tokenizer(), 129) is None and "128 tokens, not 129" in caplog.text
    shifted = loaded.knowledge
    assert shifted is not None
    tokens = (shifted.tokens[0] + 1, *shifted.tokens[1:])
    write_knowledge(replace(shifted, tokens=tokens), folder)
    assert fitting_knowledge(folder, tiny_tokenizer(), 128) is None and "other tokens" in caplog.text


def test_a_size_counts_as_asked_where_one_of_nearly_its_bytes_was() -> None:
    sizes = KnownSizes(torch.tensor([1000_000, 800_000]), *(torch.zeros(2, 0, 5) for _ in range(4)))
    assert sizes.nearest([1_004_000, 797_000, 1_000_000]) == [0, 1, 0]
    assert sizes.nearest([1_000_000, 850_000]) is None


def test_the_page_opens_where_all_larger_sizes_know_nine_in_ten() -> None:
    assert opening([0.2, 0.95, 0.89, 0.9, 0.93, 1.0]) == 3 and KNOWING == 0.9
    assert opening([0.9, 0.9, 1.0]) == 0 and opening([1.0, 0.3, 1.0]) == 2
    assert opening([0.1, 0.8]) is None and opening([]) is None


def test_what_the_default_artifact_knows() -> None:
    folder = default_artifact(DEFAULT_MODEL)
    found = read_knowledge(folder)
    assert found is not None and found.modes.keys() == {"directions", "bits", "both"}
    assert len(found.facts) >= 120 and len({fact.field for fact in found.facts}) >= 20 and len(found.strip) == 36
    assert (folder / FILE).stat().st_size < 2_000_000
    for of in found.modes.values():
        known = (of.rank == 1).float()
        gap = (known[:, list(found.strip)].mean(1) - known.mean(1)).abs()
        assert gap.max() < 0.06, "the strip must say of every size what all facts say"
        assert known[-1].mean() < 0.7 < known[1].mean()


def test_a_copy_of_the_default_artifact_is_read_the_same(tmp_path: Path) -> None:
    source = default_artifact(DEFAULT_MODEL)
    copy = shutil.copytree(source, tmp_path / "copy")
    assert same(read_knowledge(copy), read_knowledge(source))
