"""Factors of an elastic model in a file of its process, so that only those in use have to be resident."""

from __future__ import annotations

import logging
import os

from ..paths import cache_dir
from ..storage.mapped import moved_to_file
from .elastic_model import ElasticModel
from .offloading import is_offloaded

log = logging.getLogger("acip")


def keep_banks_in_file(elastic: ElasticModel) -> None:
    """Move the banks of all layers from memory into a file of the cache that has no name; nothing may train them then.

    They stay where they are on an accelerator, where they lie in files already, where a file that is open cannot lose
    its name, and, with a line in the log, where it cannot be written.
    """
    if elastic.base.device.type != "cpu" or is_offloaded(elastic.model) or os.name != "posix":
        return
    layers = elastic.elastic_layers()
    banks = {f"{name}.{part}": getattr(layer, part) for name, layer in layers.items() for part in ("down", "up")}
    try:
        banks = moved_to_file(banks, cache_dir() / "banks")
    except OSError as error:
        log.warning("The factors stay in memory: %s cannot be written (%s).", cache_dir() / "banks", error.strerror)
        return
    for name, layer in layers.items():
        layer.down, layer.up = banks[f"{name}.down"], banks[f"{name}.up"]
        layer.forget_products()
