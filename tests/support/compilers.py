"""Compilers of native code that a test makes up."""

from __future__ import annotations

from pathlib import Path


def a_compiler(folder: Path, script: str) -> str:
    """A program for `CC` that does what a shell's script says."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)
