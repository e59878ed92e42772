"""The package from outside: its few names, and an import that costs nothing."""

from __future__ import annotations

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
