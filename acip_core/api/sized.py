"""A loaded model at the size last set: what may be spent, and which plan a target stands for."""

from __future__ import annotations

import logging
import math
from threading import Lock

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..artifacts.artifact import Artifact
from ..artifacts.loading import Loaded, bits_refused, install_coding
from ..errors import ArgumentError, SizeError, finite, shown
from ..generation.engine import Engine
from ..model.byte_planner import BytePlanner
from ..model.elastic_model import ElasticModel
from ..model.size_planner import BOTH, DIRECTIONS, MODES, Plan
from ..progress import finish
from .arguments import OnProgress
from .bars import Bars

log = logging.getLogger("acip")


def check_mode(mode: str) -> None:
    """Refuse what is none of `MODES`.

    Raises:
        ArgumentError: it is not.
    """
    if mode not in MODES:
        raise ArgumentError(f"What may be spent is {', '.join(MODES)}, not {shown(mode)}.")


def best_mode(loaded: Loaded) -> str:
    """What may be spent where nobody says: `both`, or `directions` where a model has no bits; then the log says why."""
    if (refused := bits_refused(loaded)) is None:
        return BOTH
    log.warning("%s Directions are spent instead: a size is a share of the compressed layers' parameters.", refused)
    return DIRECTIONS


class SizedModel:
    """A loaded model at the size last set.

    Attributes:
        elastic: what it runs on; `elastic.model` is an ordinary transformers model at the size last set, whatever
            the verbs of other threads run at; `elastic.planners` know all sizes of each mode.
        artifact: its score map and the perplexities measured at every size.
    """

    def __init__(
        self, loaded: Loaded, size: float = 1.0, mode: str | None = None, on_progress: OnProgress | None = None
    ):
        """Args:
            loaded: what `open_model` returned.
            size, mode: as `set_size`.
            on_progress: called with every step of making codes, which bars on the error stream show by default.

        Raises:
            SizeError: no plan has that size.
        """
        self.elastic: ElasticModel = loaded.elastic
        self.artifact: Artifact = loaded.artifact
        self._loaded, self._engine = loaded, Engine(loaded.elastic)
        self._setting, self._preparing = Lock(), Lock()
        self._on_progress, self._best = on_progress or Bars(), ""
        self._plan = self.set_size(size, mode)

    @property
    def plan(self) -> Plan:
        """The size in force in full: what is spent, parameters and bytes of the whole model, what is saved."""
        return self._plan

    @property
    def size(self) -> float:
        """Size ratio in force: of the bytes published, or with directions of the compressed layers' parameters."""
        return self.plan.ratio

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's, with a token to pad with."""
        return self.elastic.tokenizer

    @property
    def config(self) -> PreTrainedConfig:
        """The base model's, as transformers has it."""
        return self.elastic.model.config

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.elastic.base.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.elastic.base.dtype

    def set_size(self, ratio: float, mode: str | None = None) -> Plan:
        """Run at a size ratio in (0, 1] from now on; 1.0 is the original model, bit for bit.

        The first time that bits are spent on a machine, codes are made, which takes minutes.

        Args:
            ratio: of the bytes that the model is published in; with `directions`, of the compressed layers'
                parameters, adapters counted.
            mode: what may be spent: `both` (bits, and adapters of coded layers), `bits`, or `directions`, the paper's
                axis. `both` by default; `directions` for the original, and where no bits can be spent: the layers are
                quantized, stay in their files, or the artifact has no operating points. Then the log says so.

        Raises:
            SizeError: no plan has that size.
            ArgumentError: there is no such mode; ArtifactError, PrecisionError, ModelError: the model does not have it.
        """
        mode = self._best_mode(ratio) if mode is None else mode
        if mode == DIRECTIONS:
            return self._set(self.elastic.planner.at_ratio(ratio))
        return self._set(self._bytes(mode).at_ratio(ratio))

    def set_bytes(self, size: float, mode: str = BOTH) -> Plan:
        """Run at the best plan whose exported tensors have at most `size` bytes.

        Args:
            mode: `both` or `bits`.

        Raises:
            SizeError, ArgumentError, ArtifactError, PrecisionError, ModelError: as `set_size`.
        """
        return self._set(self._bytes(mode).at_bytes(size))

    def set_quality(self, worse: float, mode: str = BOTH) -> Plan:
        """Run at the smallest plan whose perplexity is expected to be at most `worse` above the full model's.

        Args:
            worse: 0.05 for 5 %.
            mode: `both` or `bits`.

        Raises:
            SizeError, ArgumentError, ArtifactError, PrecisionError, ModelError: as `set_size`.
        """
        if (number := finite(worse)) is None or number < 0:
            raise SizeError(f"How much worse a size may be is a share from 0 on, not {shown(worse)}.")
        return self._set(self._bytes(mode).at_loss(math.log1p(number)))

    def _best_mode(self, ratio: float) -> str:
        if finite(ratio) == 1:  # the original as published, for which nothing is made
            return DIRECTIONS
        self._best = self._best or best_mode(self._loaded)
        return self._best

    def _bytes(self, mode: str) -> BytePlanner:
        """The planner of a mode with bits; makes the codes when one is first asked for."""
        if mode == DIRECTIONS:
            raise ArgumentError("Directions are spent by a share of the layers' parameters; set a size instead.")
        check_mode(mode)
        with self._preparing:
            if mode not in self.elastic.planners:
                if (refused := bits_refused(self._loaded)) is not None:
                    raise refused
                finish(install_coding(self._loaded), self._on_progress)
        planner = self.elastic.planners[mode]
        assert isinstance(planner, BytePlanner)
        return planner

    def _set(self, plan: Plan) -> Plan:
        with self._setting:  # the object and its model never end at sizes of two callers
            self._plan = plan
            self.elastic.apply(plan)
        return plan
