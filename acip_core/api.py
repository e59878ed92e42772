"""The Python API: a language model of any size as one object, with the verbs of the command line.

Every verb is one call into the module that does the work.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from threading import Lock

import torch

from .artifacts.export import export
from .artifacts.loading import Loaded, open_model
from .data.framing import framed_windows, framing
from .errors import CorpusError, shown
from .evaluation.perplexity import WINDOW
from .generation.engine import Engine, SamplingConfig
from .model.quantization import FULL
from .model.size_planner import Plan
from .progress import finish

log = logging.getLogger("acip")


def load(
    source: str | None = None,
    artifact: str | Path | None = None,
    precision: str = FULL,
    dtype: torch.dtype | str | None = None,
) -> Model:
    """A model at size 1.0, ready to run at any other; factorized once per machine, then read from the cache.

    Args:
        source: Hub id (`org/model`, `org/model@revision`), local folder or GGUF file; the embedded default,
            `smollm2-135m-instruct`, when left out.
        artifact: folder of its artifact or its name on the Hub (`user/repo`); `precomputed/<model>` by default.
        precision: of the compressed layers, `int8`, `int4`, or where bitsandbytes runs `nf4` or `fp4`.
        dtype: to compute in, as `load_base`.

    Raises:
        ModelError, ArtifactError, HubError, PrecisionError: one sentence each.
    """
    return Model(finish(open_model(source, artifact, precision=precision, dtype=dtype)))


class Model:
    """A language model that runs at the size last set.

    All verbs may be called from several threads at once: each runs at the size in force when it was called, from its
    first token to its last, whatever is set meanwhile.

    Attributes:
        elastic: what it runs on; `elastic.model` is an ordinary transformers model at the size last set, whatever
            the verbs of other threads run at; `elastic.planner` knows all sizes.
        artifact: its score map and the perplexities measured at every size.
    """

    def __init__(self, loaded: Loaded):
        self.elastic, self.artifact, self._quantized = loaded.elastic, loaded.artifact, loaded.quantized
        self._engine, self._setting = Engine(self.elastic), Lock()
        self._plan = self.elastic.planner.at_ratio(1.0)
        self.elastic.apply(self._plan)

    @property
    def plan(self) -> Plan:
        """The size in force in full: parameters and bytes of the whole model, what is saved."""
        return self._plan

    @property
    def size(self) -> float:
        """Size ratio in force: stored parameters of the compressed layers ÷ their original ones, adapters counted."""
        return self.plan.ratio

    def set_size(self, ratio: float) -> Plan:
        """Run at a size ratio in (0, 1] from now on, within one direction; 1.0 is the original model, bit for bit.

        Raises:
            SizeError: no cut has that size.
        """
        plan = self.elastic.planner.at_ratio(ratio)
        with self._setting:  # the object and its model never end at sizes of two callers
            self._plan = plan
            self.elastic.apply(plan)
        return plan

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        chat: bool = False,
    ) -> str:
        """The text that continues `prompt`, at the size in force.

        Args:
            temperature, top_p, seed: as `generate.SamplingConfig`; temperature 0 picks the likeliest token.
            chat: put the prompt into the model's chat template as a user's message.

        Raises:
            GenerationError: the prompt is empty or too long, or a setting is out of range.
        """
        sampling = SamplingConfig(temperature, top_p, seed, max_new_tokens)
        return "".join(token.text for token in self._engine.stream(prompt, self.plan, sampling, chat=chat))

    def export(self, folder: str | Path, dense: bool = False, dtype: str | None = None) -> Path:
        """Write the model at the size in force as a folder that plain transformers loads, as `export.export`.

        Args:
            dtype: `float32`, `bfloat16` or `float16`; as the base model is published when left out.

        Raises:
            StorageError: the folder holds files already or cannot be written.
            PrecisionError: there is no such dtype.
        """
        steps = export(
            self.elastic, self.artifact, self.plan, Path(folder), dense, quantized=self._quantized, dtype=dtype
        )
        return finish(steps)

    def perplexity(self, text: str) -> float:
        """Perplexity per token of a text at the size in force, measured as the artifact's curves are.

        The text is read in windows of at most 512 tokens that begin as the tokenizer begins a text (`framing`); every
        token counts once.

        Raises:
            CorpusError: the text is empty, or the tokenizer makes no tokens of it.
        """
        if not isinstance(text, str):
            raise CorpusError(f"Perplexity is of a text, not of {shown(text)}.")
        tokenizer = self.elastic.tokenizer
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text for a tokenizer
        ids, frame = tokenizer(text, add_special_tokens=False, verbose=False).input_ids, framing(tokenizer)
        if len(ids) < (1 if frame.lead else 2):
            raise CorpusError("The text is too short: perplexity needs two tokens.")
        windows = framed_windows(tokenizer, ids, min(WINDOW, self._engine.context))
        skipped = max(0, len(frame.start) - 1)  # what a text begins with is no part of it
        losses = torch.cat([losses[skipped:] for losses in self._engine.losses(windows, self.plan)])
        return math.exp(min(losses.double().mean().item(), 700))
