"""`python -m benchmarks reliability`: what no accident, no damage and no stranger may do to it, tried many times.

Each campaign prints one line with counts by outcome; a fault is what must not happen.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from acip_core.generation.native_code import native_code
from acip_core.model.thread_pools import release_threads

from .damage import run_damage
from .kills import run_kills
from .models import FAMILIES
from .outcome import Tally
from .requests import run_requests
from .resizes import run_resizes
from .soak import run_soak

CAMPAIGNS: dict[str, Callable[[Path, bool], Tally]] = {
    "kills": run_kills,
    "damage": run_damage,
    "requests": run_requests,
    "resizes": run_resizes,
    "soak": run_soak,
}


def run_campaigns(names: list[str], quick: bool = False) -> Iterator[Tally]:
    """Run campaigns, all without names, each in a folder of its own that is removed afterwards.

    Args:
        quick: a short form of each, a minute in all.
    """
    release_threads()  # of what imports computed; trials are forked, and a process with threads cannot be
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE = "1", True
    os.environ["OMP_NUM_THREADS"] = "1"  # of the pages that are started
    _warm_up(quick)
    if (running := threading.active_count()) > 1:
        raise RuntimeError(f"{running} threads are running, and trials are forked")
    for name in names or CAMPAIGNS:
        with tempfile.TemporaryDirectory(prefix="acip-reliability-") as folder:
            yield CAMPAIGNS[name](Path(folder).resolve(), quick)


def _warm_up(quick: bool) -> None:
    """Have the modules and tables that a process makes for its first model: half of the time of a trial with one.

    Args:
        quick: have the native code, too; otherwise trials compile it and are killed while they do.
    """
    importlib.import_module("peft")
    if quick:
        native_code()
    for family, sizes in FAMILIES.items():
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
        get_checkpoint_conversion_mapping(family)
