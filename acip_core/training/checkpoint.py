"""The state of a gradient run as a file: written whole or not at all, and read only by the run that it belongs to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..storage.atomic import atomic_path
from ..storage.verified import DAMAGE, read_tensors, save_tensors
from .distillation import log

CHECKPOINT_SECONDS = 45


_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class Checkpoint:
    """One safetensors file with parameters, Adam's state and history of a run; whole or not at all.

    Args:
        path: None keeps nothing.
        identity: what makes two runs the same; a file of another run is left for `save` to replace.
        every: times as seldom as usual it is written.
    """

    def __init__(self, path: Path | None, identity: str, every: int = 1):
        self.path, self.identity, self.every = path, identity, every
        self.saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write it again."""
        return self.path is not None and time.monotonic() - self.saved > CHECKPOINT_SECONDS * self.every

    def save(
        self,
        step: int,
        parameters: Sequence[torch.Tensor],
        optimizer: torch.optim.Optimizer,
        extra: dict[str, torch.Tensor],
    ) -> None:
        """Write the state after `step` steps; the names in `extra` are not those of parameters or Adam's state."""
        if self.path is None:
            return
        tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(parameters)} | extra
        for i, p in enumerate(parameters):  # one that has had no gradient so far has no state
            tensors |= {f"{key}.{i}": value for key, value in optimizer.state.get(p, {}).items()}
        with atomic_path(self.path) as temporary:
            save_tensors(tensors, temporary, {"step": str(step), "identity": self.identity})
        self.saved = time.monotonic()

    def load(
        self, parameters: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer, lengths: dict[str, int | None]
    ) -> tuple[int, dict[str, torch.Tensor]] | None:
        """Restore parameters and optimizer; None, and nothing is changed, unless the file is whole and of this run.

        Args:
            lengths: names of the extra tensors and their lengths; None stands for one entry per step.

        Returns:
            Steps done and the extra tensors.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            state, metadata = read_tensors(self.path)
            if metadata["identity"] != self.identity:
                log.warning("The checkpoint %s belongs to another run; starting anew.", self.path)
                return None
            step = int(metadata["step"])
            _check(state, parameters)
            for name, length in lengths.items():
                if len(state[name]) != (step if length is None else length):
                    raise ValueError(f"{len(state[name])} {name} after {step} steps")
        except DAMAGE as error:
            log.warning("The checkpoint %s is damaged (%s); starting anew.", self.path, error)
            return None
        for i, parameter in enumerate(parameters):
            parameter.data.copy_(state[f"parameter.{i}"])
            moments = {key: state[f"{key}.{i}"] for key in _ADAM_STATE if f"{key}.{i}" in state}
            if moments:
                on_device = {key: moments[key].to(parameter.device) for key in _ADAM_STATE[1:]}
                optimizer.state[parameter] = moments | on_device  # Adam counts steps on the CPU
        return step, {name: state[name] for name in lengths}


def _check(state: dict[str, torch.Tensor], parameters: Sequence[torch.Tensor]) -> None:
    """Raise ValueError or KeyError unless a checkpoint's tensors are whole: a part of one is worse than none."""
    for i, parameter in enumerate(parameters):
        moments = [state[f"{key}.{i}"] for key in _ADAM_STATE[1:] if f"{key}.{i}" in state]
        if len(moments) == 1 or (f"step.{i}" in state) != bool(moments):
            raise ValueError(f"half an optimizer state of parameter {i}")
        for tensor in (state[f"parameter.{i}"], *moments):
            if tensor.shape != parameter.shape or not torch.isfinite(tensor).all():
                raise ValueError(f"parameter {i} has another shape or values that are not finite")
