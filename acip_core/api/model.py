"""A language model of any size as one object; every verb is one call into the module that does the work."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.utils import GenerateOutput

from ..artifacts.export import check_free, export
from ..artifacts.gguf_export import export_gguf, gguf_plan
from ..artifacts.loading import open_model
from ..data.framing import framed_windows, framing
from ..errors import ArgumentError, CorpusError, GenerationError, check_ratio, shown
from ..evaluation.perplexity import WINDOW
from ..generation.engine import SamplingConfig
from ..model.quantization import FULL
from ..model.size_planner import DIRECTIONS
from ..paths import local_path
from ..progress import finish
from ..storage.hub import HubConfig, check_publishable, publish
from .arguments import DeviceMap, OnProgress, artifact_at, model_at, one_place, refuse_options, refuse_unknown
from .bars import Bars
from .sized import SizedModel, check_mode


class AcipModel(SizedModel):
    """A language model that runs at the size last set.

    All verbs may be called from several threads at once: each runs at the size in force when it was called, from its
    first token to its last, whatever is set meanwhile.

    Reference:
        ACIP, arXiv 2502.01717: one order of all singular directions, from which every size is a prefix.
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None = None,
        *,
        artifact: str | Path | None = None,
        size: float = 1.0,
        mode: str | None = None,
        precision: str = FULL,
        dtype: torch.dtype | str | None = "auto",
        device_map: DeviceMap = "auto",
        revision: str | None = None,
        artifact_revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        on_progress: OnProgress | None = None,
        **unknown: Any,
    ) -> AcipModel:
        """A model ready to run at any size; factorized once per machine, then read from the cache.

        Args:
            pretrained_model_name_or_path: Hub id (`org/model`, `org/model@revision`), local folder or GGUF file; the
                embedded default, `smollm2-135m-instruct`, when left out.
            artifact: folder of its artifact or its name on the Hub (`user/repo`, `user/repo@revision`);
                `precomputed/<model>` by default.
            size, mode: as `set_size`.
            precision: of the compressed layers: `full`, `int8`, `int4`, or where bitsandbytes runs `nf4` or `fp4`.
            dtype: to compute in: `float32`, `bfloat16` or `float16`; `auto` for float32 on the CPU, else bfloat16.
            device_map: one device for the whole model (`cpu`, `cuda:1`, 1, `{"": 1}`); `auto` for the one that
                `ACIP_DEVICE` names, or a GPU where there is one; `disk` to leave the decoder blocks in their files;
                None for torch's default device.
            revision, artifact_revision: branch, tag or commit of the two on the Hub; folders and files have none.
            token, cache_dir, local_files_only: as transformers', for the model and the artifact.
            on_progress: called with every step of the work; bars on the error stream show it by default.

        Raises:
            ArgumentError: a keyword that is none of these.
            SizeError, ModelError, ArtifactError, HubError, PrecisionError: one sentence each.
        """
        refuse_unknown("AcipModel.from_pretrained", unknown)
        check_ratio(size)  # before minutes of work
        if mode is not None:
            check_mode(mode)
        source = None if pretrained_model_name_or_path is None else str(pretrained_model_name_or_path)
        steps = open_model(
            model_at(source, revision),
            artifact_at(artifact, artifact_revision),
            precision=precision,
            dtype=dtype,
            device=one_place(device_map),
            hub=HubConfig(token, cache_dir, local_files_only),
        )
        return cls(finish(steps, on_progress or Bars()), size, mode, on_progress)

    def __repr__(self) -> str:
        return f"AcipModel({self.elastic.base.source}, size={self.size:.3f}, {self.dtype} on {self.device})"

    def generate(
        self, inputs: torch.Tensor | None = None, generation_config: GenerationConfig | None = None, **options: Any
    ) -> GenerateOutput | torch.LongTensor:
        """Token ids that continue token ids: transformers' `generate` at the size in force.

        Args:
            inputs: (batch, tokens) ids on the model's device; also as `input_ids`, so that what a tokenizer returns
                can be passed on with `**`. Texts of several lengths are padded on the left.
            generation_config, options: as transformers', `max_new_tokens` or `do_sample` for example; sampling draws
                from torch's global generator.

        Returns:
            (batch, tokens + new) ids, the prompts included; what transformers returns with
            `return_dict_in_generate=True`.

        Raises:
            GenerationError: a text instead of ids.
            ArgumentError: `custom_generate`, `trust_remote_code`, `assistant_early_exit`, `compile_config`, or a static
                `cache_implementation`.
        """
        if isinstance(inputs, str):
            raise GenerationError("`generate` continues token ids, as transformers' does; for a text use `complete`.")
        refuse_options(options, generation_config)
        with self.elastic.on_this_thread(self.plan):
            model: Any = self.elastic.model
            return model.generate(inputs, generation_config=generation_config, **options)

    def complete(
        self,
        text: str,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        chat: bool = False,
        repetition_penalty: float = 1.0,
    ) -> str:
        """The text that continues `text`, at the size in force.

        Args:
            temperature, top_p, seed: as `SamplingConfig`; temperature 0 picks the likeliest token.
            chat: put the text into the model's chat template as a user's message.
            repetition_penalty: above 1, tokens that the text has already become less likely; as transformers'.

        Raises:
            GenerationError: the text is empty or too long, or a setting is out of range.
        """
        return "".join(self.stream(text, max_new_tokens, temperature, top_p, seed, chat, repetition_penalty))

    def stream(
        self,
        text: str,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        chat: bool = False,
        repetition_penalty: float = 1.0,
    ) -> Iterator[str]:
        """As `complete`, part by part while it is written; no part ends within a character.

        The size is that at the call, and so is the moment when a wrong setting is raised.
        """
        sampling = SamplingConfig(temperature, top_p, seed, max_new_tokens, repetition_penalty)
        tokens = self._engine.stream(text, self.plan, sampling, chat=chat)
        return (token.text for token in tokens if token.text)

    def perplexity(self, text: str) -> float:
        """Perplexity per token of a text at the size in force, measured as the artifact's curves are.

        The text is read in windows of at most 512 tokens that begin as the tokenizer begins a text (`framing`); every
        token counts once.

        Raises:
            CorpusError: the text is empty, or the tokenizer makes no tokens of it.
        """
        if not isinstance(text, str):
            raise CorpusError(f"Perplexity is of a text, not of {shown(text)}.")
        tokenizer = self.tokenizer
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text for a tokenizer
        ids, frame = tokenizer(text, add_special_tokens=False, verbose=False).input_ids, framing(tokenizer)
        if len(ids) < (1 if frame.lead else 2):
            raise CorpusError("The text is too short: perplexity needs two tokens.")
        windows = framed_windows(tokenizer, ids, min(WINDOW, self._engine.context))
        skipped = max(0, len(frame.start) - 1)  # what a text begins with is no part of it
        losses = torch.cat([losses[skipped:] for losses in self._engine.losses(windows, self.plan)])
        return math.exp(min(losses.double().mean().item(), 700))

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        dense: bool = False,
        dtype: str | None = None,
        format: str = "transformers",
        **unknown: Any,
    ) -> Path:
        """Write the model at the size in force as a folder that plain transformers loads.

        What is smaller than the original is loaded with `trust_remote_code=True`.

        Args:
            save_directory: new or empty; appears when it is complete.
            dense: multiply the factors out: no smaller, but for tools that know only the base model's class.
            dtype: `float32`, `bfloat16` or `float16`; as the base model is published when left out.
            format: `gguf` for one file that llama.cpp reads, `model.gguf` in the folder, instead of `transformers`; at
                a size in bytes the best file of so many, in llama.cpp's types.

        Returns:
            The folder.

        Raises:
            ArgumentError: a keyword that is none of these, or another format.
            SizeError: llama.cpp's types make no file so small.
            StorageError: the folder holds files already or cannot be written.
            ModelError, PrecisionError: as `artifacts.export.export`.
        """
        refuse_unknown("AcipModel.save_pretrained", unknown)
        folder = local_path(save_directory)
        check_free(folder)
        if format == "gguf":
            if dense or dtype or self._loaded.quantized:
                raise ArgumentError("A GGUF file has types of its own; leave out dense, dtype and precision.")
            return self._save_gguf(folder)
        if format != "transformers":
            raise ArgumentError(f"A model is written for transformers or as gguf, not as {shown(format)}.")
        steps = export(
            self.elastic, self.artifact, self.plan, folder, dense, quantized=self._loaded.quantized, dtype=dtype
        )
        return finish(steps)

    def _save_gguf(self, folder: Path) -> Path:
        plan, coding = self.plan, self._loaded.coding
        if plan.mode != DIRECTIONS:
            plan = finish(gguf_plan(self.elastic, coding, plan.bytes), self._on_progress)
        return finish(export_gguf(self.elastic, self.artifact, plan, folder, coding)).parent

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | bool | None = None,
        dense: bool = False,
        dtype: str | None = None,
        format: str = "transformers",
        **unknown: Any,
    ) -> str:
        """Publish the model at the size in force, as `save_pretrained` writes it.

        Args:
            repo_id: its name on the Hub, `user/repo`; made where there is none.
            private: whether a repository that is made is shown to its owner only.
            token: of an account; the one that `hf auth login` or `HF_TOKEN` left by default.

        Returns:
            The address.

        Raises:
            ArgumentError: a keyword that is none of these.
            HubError: no network, no account or not a name, raised before anything is written.
        """
        refuse_unknown("AcipModel.push_to_hub", unknown)
        check_publishable(repo_id, token)
        with tempfile.TemporaryDirectory(prefix="acip-") as place:
            folder = self.save_pretrained(Path(place) / "model", dense=dense, dtype=dtype, format=format)
            return publish(folder, repo_id, private, token)
