"""Memory of a model that does not fit: a checkpoint with the widths of a 3B model, random, is prepared, cut and loaded.

Every stage is a process of its own, of one thread. Preparing one block takes two to three minutes, so a model of a few
is prepared, and the peak compared between numbers of blocks: they stay on disk, so it must not grow with them. It is
the kernel's count of resident pages, those of memory-mapped files, which it could take back, included. All 28 blocks
take two hours of one core: `write_checkpoint(folder / "model", 28)`, then `python -m benchmarks.large STAGE FOLDER` for
each stage, with `ACIP_DEVICE=disk` and a cache beside it, from which a stage that was stopped continues.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from acip_core.artifacts.export import export
from acip_core.artifacts.loading import open_model
from acip_core.model.base_model import load_base
from acip_core.pipelines.precompute import precompute
from acip_core.pipelines.recipes import QUICK
from acip_core.progress import finish

from .figure import Figure
from .paper import PREPARING, THREE

WIDTHS = {
    "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24, "num_key_value_heads": 8,
    "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
_BLOCKS = (1, 4)
_MOST = 10.0  # GB, of any stage
_RECIPE = replace(
    QUICK,
    corpora=("wikipedia",),
    window=128,
    moment_windows=4,
    curve_windows=1,
    ratios=(1.0, 0.5),
    examples=(),
    codes=None,
)
_EXPORT_SHARD = 500_000_000


def measure_large(blocks: Sequence[int] = _BLOCKS, place: Path | None = None) -> list[Figure]:
    """Peaks of every stage at several numbers of blocks, what a further block adds, and the time that one takes."""
    figures, peaks = [], []
    for count in blocks:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            write_checkpoint(Path(folder) / "model", count)
            found = {stage: _measured(stage, Path(folder)) for stage in ("prepare", "export", "load")}
        peaks.append(max(result["peak"] for result in found.values()))
        figures += [
            Figure(
                f"3B widths, {count} block{'s' * (count > 1)}, {stage}: peak memory", result["peak"] / 1e9, "GB", _MOST
            )
            for stage, result in found.items()
        ]
        figures.append(Figure(PREPARING, found["prepare"]["seconds"] / count, "s"))
    added = (peaks[-1] - peaks[0]) / (blocks[-1] - blocks[0]) / (2 * THREE.block)
    return [*figures, Figure("what a further block adds to the peak ÷ its weights", added, "×", 0.2)]


def _measured(stage: str, folder: Path) -> dict[str, Any]:
    """What a stage's process says of itself."""
    environment = os.environ | {"ACIP_DEVICE": "disk", "ACIP_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.large", stage, str(folder)]
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def _shapes() -> dict[str, tuple[int, int]]:
    width, inner = WIDTHS["hidden_size"], WIDTHS["intermediate_size"]
    shared = WIDTHS["num_key_value_heads"] * WIDTHS["head_dim"]
    attention = {
        "q_proj": (width, width),
        "k_proj": (shared, width),
        "v_proj": (shared, width),
        "o_proj": (width, width),
    }
    mlp = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    return {f"self_attn.{n}": s for n, s in attention.items()} | {f"mlp.{n}": s for n, s in mlp.items()}


def write_checkpoint(folder: Path, blocks: int) -> None:
    """Random weights in bfloat16, a shard for each block and one for the rest; the default model's tokenizer."""
    load_base().tokenizer.save_pretrained(folder)
    config = LlamaConfig(**WIDTHS, num_hidden_layers=blocks, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    draw, width = torch.Generator().manual_seed(0), WIDTHS["hidden_size"]
    ones = torch.ones(width, dtype=torch.bfloat16)
    rest = {"model.embed_tokens.weight": _random((WIDTHS["vocab_size"], width), draw), "model.norm.weight": ones}
    shards = {"rest.safetensors": rest}
    for index in range(blocks):
        name = f"model.layers.{index}"
        tensors = {f"{name}.{part}.weight": _random(shape, draw) for part, shape in _shapes().items()}
        tensors |= {f"{name}.{norm}.weight": ones.clone() for norm in ("input_layernorm", "post_attention_layernorm")}
        save_file(tensors, folder / f"block-{index}.safetensors", {"format": "pt"})
        shards[f"block-{index}.safetensors"] = dict.fromkeys(tensors)
    save_file(rest, folder / "rest.safetensors", {"format": "pt"})
    files = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def _random(shape: tuple[int, int], draw: torch.Generator) -> torch.Tensor:
    return (torch.randn(shape, generator=draw) * shape[1] ** -0.5).bfloat16()


def _run(stage: str, folder: Path) -> None:
    """One stage in this process; its last line tells the peak of all resident pages, and of its own alone."""
    source, artifact, cut = str(folder / "model"), folder / "artifact", folder / "half"
    with _own_memory() as own:
        if stage == "prepare":
            finish(precompute(source, _RECIPE, artifact))
        elif stage == "export":
            loaded = finish(open_model(source, artifact))
            plan = loaded.elastic.planner.at_ratio(0.5)
            finish(export(loaded.elastic, loaded.artifact, plan, cut, shard_bytes=_EXPORT_SHARD))
        else:
            base = load_base(str(cut), device="cpu", dtype="bfloat16")
            base.model(torch.arange(3, 35)[None], use_cache=False)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak": peak, "own": max(own, default=0), "seconds": time.process_time()}))


@contextmanager
def _own_memory() -> Iterator[list[int]]:
    """Bytes of this process's pages that belong to no file, looked at ten times a second."""
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            seen.append(1024 * int(status.partition("RssAnon:")[2].split()[0]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    _run(sys.argv[1], Path(sys.argv[2]))
