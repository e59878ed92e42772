"""Names of the release before."""

from __future__ import annotations

from pathlib import Path

import pytest

import acip_core

PROMPT = "Hello there, how are you today? "


def test_names_of_the_release_before_work_and_say_what_they_are_now(files: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"acip_core\.load is called acip_core\.AcipModel\.from_pretrained now"):
        load = acip_core.load
    with pytest.warns(DeprecationWarning, match=r"acip_core\.Model is called acip_core\.AcipModel now"):
        former = acip_core.Model
    with pytest.warns(DeprecationWarning, match="PrecomputeConfig now"):
        assert acip_core.Recipe is acip_core.PrecomputeConfig
    model = load(*files)
    assert isinstance(model, former)
    model.set_size(0.5)
    assert model.generate(PROMPT, max_new_tokens=5) == model.complete(PROMPT, max_new_tokens=5)
    assert (model.export(tmp_path / "out", dtype="bfloat16") / "config.json").is_file()
