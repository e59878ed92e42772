"""Resizes: ten families in two dtypes at random sizes; 100 % is the base bit for bit, every size the same each time."""

from __future__ import annotations

import hashlib
import os
import random
import resource
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from acip_core.model.base_model import load_base
from acip_core.model.elastic_model import AdapterWeights, ElasticModel, build_elastic
from acip_core.model.factorization import factorize
from acip_core.model.kernels import use_fast_linears
from acip_core.model.second_moments import measure_basis
from acip_core.model.target_layers import linearize, target_layers
from acip_core.progress import finish

from . import models
from .outcome import Tally
from .trial import forked

RESIZES, QUICK_RESIZES = 1000, 18  # of every model
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_OUTCOMES = ("as before", "exact at 100 %", "first time")
_FEWEST, _SHARE = 8, 0.05  # sizes that come again: at least, and of all resizes
_EXACT = 0.2  # share of resizes to 100 %
_TOKENS, _STEPS = 24, 3  # read at once, then one at a time
_ADAPTER_RANK = 2
_GROWN = 8_000_000  # bytes that the allocator may keep


def run_resizes(folder: Path, quick: bool = False) -> Tally:
    """Every family and dtype in a process of its own."""
    count = QUICK_RESIZES if quick else RESIZES
    tally = Tally("resizes", _OUTCOMES, count * len(models.FAMILIES) * len(DTYPES))
    os.environ["ACIP_CACHE"] = str(folder / "cache")
    for family in models.FAMILIES:
        for name, dtype in DTYPES.items():
            place = folder / f"{family}-{name}"
            ended = forked(lambda f=family, d=dtype, p=place: _resized(f, d, p, count), 600)
            if ended.how != "returned":
                tally.fault(f"{family} in {name}: {ended.how} {ended.told}", count)
                continue
            counts, faults = ended.value
            for outcome, number in counts.items():
                tally.add(outcome, number)
            for sentence, number in faults.items():
                tally.fault(f"{family} in {name}: {sentence}", number)
    return tally


def _resized(family: str, dtype: torch.dtype, folder: Path, count: int) -> tuple[dict[str, int], dict[str, int]]:
    """Counts by outcome and by fault of one model; before each resize it is at another random size."""
    draw = random.Random(f"{family} {dtype}")
    base, elastic = _models(family, dtype, folder)
    whole = _answers(base)
    known: dict[float, str] = {}
    tally = Tally(family, _OUTCOMES, count)
    smallest = elastic.planner.smallest / elastic.planner.base_target_parameters
    sizes = [draw.uniform(smallest, 1.0) for _ in range(max(_FEWEST, round(_SHARE * count)))]
    memory = 0
    for number in range(count):
        if number == 2 * len(sizes):  # what is kept of each size is there
            memory = _resident()
        ratio = sizes[number] if number < len(sizes) else 1.0 if draw.random() < _EXACT else draw.choice(sizes)
        elastic.set_size(draw.uniform(smallest, 1.0))  # from anywhere
        elastic.set_size(ratio)
        answers = _answers(elastic.model)
        if ratio == 1.0:
            different = [name for name, own in whole.items() if not torch.equal(own, answers[name])]
            tally.fault(f"100 % differs for {' and '.join(different)}") if different else tally.add(_OUTCOMES[1])
            continue
        digest = hashlib.sha256(b"".join(a.float().numpy().tobytes() for a in answers.values())).hexdigest()
        first = ratio not in known
        if known.setdefault(ratio, digest) != digest:
            tally.fault("a size gives other logits than before")
        elif not all(a.isfinite().all() for a in answers.values()):
            tally.fault("logits that are not finite")
        else:
            tally.add(_OUTCOMES[2] if first else _OUTCOMES[0])
    grown = _resident() - memory
    if memory and grown > _GROWN:
        tally.fault(f"memory grew by {grown / 1e6:.0f} MB")
    return dict(tally.counts), dict(tally.faults)


def _models(family: str, dtype: torch.dtype, folder: Path) -> tuple[PreTrainedModel, ElasticModel]:
    """The model as transformers loads it, and an elastic one with random scores and adapters."""
    models.write_model(folder, family)
    plain, own = (AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval() for _ in range(2))
    linearize(own)
    use_fast_linears(own)
    base = replace(load_base(str(folder)), model=own)
    source = torch.Generator().manual_seed(5)
    weights = target_layers(own).weights()
    text = torch.randint(4, 264, (4, 32), generator=source)
    factors = finish(factorize(weights, finish(measure_basis(own, text, 8, weights))))
    scores = {name: torch.rand(min(w.shape), generator=source) for name, w in weights.items()}
    adapters = {name: _adapter(*w.shape, source) for name, w in weights.items()}
    return plain, finish(build_elastic(base, factors, scores, adapters))


def _adapter(rows: int, columns: int, source: torch.Generator) -> AdapterWeights:
    a = torch.randn(_ADAPTER_RANK, columns, generator=source) * columns**-0.5
    return AdapterWeights(a, 0.3 * torch.randn(rows, _ADAPTER_RANK, generator=source))


@torch.inference_mode()
def _answers(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Logits of many tokens, and of the next ones read one at a time with what is kept of those before."""
    ids = torch.arange(5, 5 + _TOKENS + _STEPS)[None] * 7 % 259 + 4
    out = model(ids[:, :_TOKENS], use_cache=True)
    steps = []
    cache = out.past_key_values
    for index in range(_TOKENS, _TOKENS + _STEPS):
        step = model(ids[:, index : index + 1], past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        steps.append(step.logits)
    return {"many tokens": out.logits, "one token": torch.cat(steps)}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
