"""The package from outside: its few names, and an import that costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import acip_core

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_there() -> None:
    assert len(acip_core.__all__) == len(set(acip_core.__all__)) < 15
    for name in acip_core.__all__:
        assert getattr(acip_core, name).__doc__, name
    assert set(acip_core.__all__) <= set(dir(acip_core))


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        acip_core.nothing  # noqa: B018
    with pytest.raises(ImportError):
        exec("from acip_core import nothing")


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, acip_core; assert not {'torch', 'numpy', 'transformers', 'typer'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


MODULE = "import runpy, sys; sys.argv = ['', '--help']; runpy.run_module('{}', run_name='__main__')"
ENTRIES = {
    "the API": "import acip_core",
    "the command line": MODULE.format("acip_core"),
    "its script": "import sys; sys.argv = ['acip', '--help']; from acip_core.cli import main; main()",
    "the page": MODULE.format("app"),
    "the benchmarks": MODULE.format("benchmarks"),
}
SWITCHES = ("HF_HUB_DISABLE_TELEMETRY", "HF_UPDATE_DOWNLOAD_COUNTS", "GRADIO_ANALYTICS_ENABLED", "DO_NOT_TRACK")
HUB = "__import__('huggingface_hub.constants').constants.HF_HUB_DISABLE_TELEMETRY"
ENVIRONMENT = f"[{HUB}, *map(__import__('os').environ.get, {SWITCHES[1:]})]"
LIBRARIES = (
    f"[{HUB}, __import__('datasets.config').config.HF_UPDATE_DOWNLOAD_COUNTS, "
    "__import__('gradio').Blocks().analytics_enabled]"
)


def after(entry: str, question: str, **chosen: str) -> list[object]:
    """Answers to a question about what is reported, in a process that entered the package in one of its ways."""
    code = f"try:\n    {entry}\nexcept SystemExit:\n    pass\nimport json\nprint(json.dumps({question}))"
    environment = {name: value for name, value in os.environ.items() if name not in (*SWITCHES, "DISABLE_TELEMETRY")}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=environment | chosen)
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_no_entry_reports_to_anybody(entry: str) -> None:
    assert after(entry, ENVIRONMENT) == [True, "0", "False", "1"]


def test_the_libraries_that_would_report_obey() -> None:
    assert after(ENTRIES["the API"], LIBRARIES) == [True, False, False]


def test_reports_are_sent_when_the_user_asks_for_them() -> None:
    chosen = dict(zip(SWITCHES, ("0", "1", "True", "0"), strict=True))
    assert after(ENTRIES["the API"], ENVIRONMENT, **chosen) == [False, "1", "True", "0"]
