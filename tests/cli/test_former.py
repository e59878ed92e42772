"""Command lines of the release before."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable

import pytest

from acip_core import cli
from tests.support.commands import run

FORMER = {  # command lines of READMEs before, and how they are written now; None where nothing changed
    "acip precompute": None,
    "acip precompute --model org/name": "acip precompute org/name",
    "acip precompute --model=org/name --quick": "acip precompute org/name --quick",
    "acip precompute --scorer acip --preset paper --basis svd": None,
    "acip prepare": None,
    "acip report --model org/name": "acip report org/name",
    "acip renew FOLDER": None,
    "acip complete": "acip examples",
    "acip complete --model org/name": "acip examples org/name",
    "acip export smollm2-135m-instruct --size 0.6 my-model": None,
    "acip export smollm2-135m-instruct --size 0.6 my-model --precision int4": None,
    "acip finetune smollm2-135m-instruct --size 0.5 --data notes.txt": None,
    "acip push FOLDER user/repo": None,
    "acip quantize smollm2-135m-instruct": "acip measure precision smollm2-135m-instruct",
    "acip evaluate smollm2-135m-instruct --sizes 1.0,0.8,0.6,0.4 --tasks arc_easy,piqa,c4": (
        "acip measure tasks smollm2-135m-instruct --sizes 1.0,0.8,0.6,0.4 --tasks arc_easy,piqa,c4"
    ),
    "acip compare": "acip measure methods",
    "acip compare --model org/name --method svd-llm": "acip measure methods org/name --method svd-llm",
    "acip ablate": "acip measure ablations",
    "acip app": None,
    "acip app --host 0.0.0.0": None,
    "acip app --precision int4": None,
    "acip app --model smollm2-135m-instruct --model org/name": "acip app smollm2-135m-instruct org/name",
}


@pytest.mark.parametrize(("former", "now"), FORMER.items(), ids=FORMER)
def test_command_lines_of_the_release_before_work_and_say_what_they_are_now(
    former: str, now: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls: list[tuple[str, dict[str, object]]] = []

    def recorded(function: Callable[..., None]) -> Callable[..., None]:
        return functools.wraps(function)(lambda **given: calls.append((function.__name__, given)))

    groups = [cli.app, *(group.typer_instance for group in cli.app.registered_groups)]
    for command in (command for group in groups for command in group.registered_commands):
        monkeypatch.setattr(command, "callback", recorded(command.callback))
    code, output = run(monkeypatch, capsys, *shlex.split(former)[1:])
    assert code == 0, output
    assert output == (f"This is written `{now}` now; the old form works for one release.\n" if now else "")
    code, output = run(monkeypatch, capsys, *shlex.split(now or former)[1:])
    assert code == 0 and not output and calls[0] == calls[1]


def test_every_verb_of_the_release_before_is_among_them() -> None:
    before = "precompute prepare report renew complete export finetune push quantize evaluate compare ablate app"
    assert {shlex.split(line)[1] for line in FORMER} == set(before.split())
