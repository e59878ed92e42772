"""The command line, `acip <verb>` or `python -m acip_core <verb>`: one file for each group of verbs."""

from .drawing import console
from .program import app, main

__all__ = ["app", "console", "main"]
