"""How tokens are chosen, and which settings are refused, each by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from ..errors import GenerationError, finite, shown

_COLDEST = 1e-30  # temperature; what is colder rounds to zero in float32, and zero divides nothing


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are chosen.

    Attributes:
        temperature: 0 picks the likeliest token; higher is more varied.
        top_p: sample only from the likeliest tokens that together have this probability, in (0, 1].
        seed: same seed, prompt, size and settings, same text.
        max_new_tokens: tokens after which to stop.
        repetition_penalty: 1 is off; above it, tokens that the prompt or the text has already become less likely:
            positive logits are divided by it, negative ones multiplied. 0.1 to 10.

    Reference: Keskar et al., CTRL (2019), section 4.1, for the penalty; all three are transformers' logits processors.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 128
    repetition_penalty: float = 1.0


def check_sampling(sampling: SamplingConfig, context: int) -> SamplingConfig:
    """The same settings as plain numbers; those that cannot be run are refused.

    Args:
        context: tokens the model can attend to.

    Raises:
        GenerationError: names the setting, its value and its range.
    """
    temperature = _number("temperature", sampling.temperature)
    if temperature < 0:
        raise GenerationError(f"The temperature must be 0 or more, not {shown(sampling.temperature)}.")
    top_p = _number("top-p", sampling.top_p)
    if not 0 < top_p <= 1:
        raise GenerationError(f"Top-p must lie above 0 and at most 1, not {shown(sampling.top_p)}.")
    seed = _whole("seed", sampling.seed, 0, 2**63 - 1, "a whole number from 0 to 2⁶³ − 1")
    length = _whole("length", sampling.max_new_tokens, 1, context - 1, f"1 to {context - 1:,} tokens")
    penalty = _number("repetition penalty", sampling.repetition_penalty)
    if not 0.1 <= penalty <= 10:  # further out, float32 would run over
        raise GenerationError(
            f"The repetition penalty must lie between 0.1 and 10, not {shown(sampling.repetition_penalty)}; 1 is none."
        )
    return SamplingConfig(temperature, top_p, seed, length, penalty)


def _number(name: str, value: object) -> float:
    number = finite(value)
    if number is None:
        raise GenerationError(f"The {name} must be a number, not {shown(value)}.")
    return number


def _whole(name: str, value: Any, low: int, high: int, range: str) -> int:
    if not (finite(value) is not None and low <= value <= high and value == int(value)):
        raise GenerationError(f"The {name} must be {range}, not {shown(value)}.")
    return int(value)


def choose_tokens(
    logits: torch.Tensor,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
    texts: Sequence[Sequence[int]],
) -> list[int]:
    """The next tokens from logits (sequences, vocabulary), all read from the device at once.

    Args:
        generators: one per sequence, on the CPU, so that a seed means the same on every device.
        texts: ids of each sequence so far, its prompt included.
    """
    if sampling.repetition_penalty != 1:
        penalize = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
        ids = (torch.tensor([text], device=logits.device) for text in texts)
        logits = torch.cat([penalize(said, row[None].float()) for said, row in zip(ids, logits, strict=True)])
    if sampling.temperature == 0:
        return cast(list[int], logits.argmax(-1).tolist())
    scores = logits.float().cpu()
    return [_draw_token(row, sampling, generator) for row, generator in zip(scores, generators, strict=True)]


def _draw_token(scores: torch.Tensor, sampling: SamplingConfig, generator: torch.Generator) -> int:
    """A token drawn from logits (vocabulary,).

    Beside transformers' warpers, the maximum is taken off first, so that no temperature overflows, and one number is
    drawn, whatever is left out, which picks from the likeliest token on: rounding elsewhere changes no text.
    """
    nothing: Any = None  # the warpers read no token ids
    warped = TemperatureLogitsWarper(max(sampling.temperature, _COLDEST))(nothing, (scores - scores.max())[None])
    probabilities = warped[0].softmax(-1)
    # Tokens less likely than this have together no more than what is left out: sorting them would take all the time.
    least = min((1 - sampling.top_p) / len(scores), float(probabilities.max()))  # where all are alike, too
    tokens = (probabilities >= least).nonzero()[:, 0]
    warped = warped[:, tokens]
    if sampling.top_p < 1:
        warped = TopPLogitsWarper(min(1.0, sampling.top_p / float(probabilities[tokens].sum())))(nothing, warped)
    ordered, places = warped[0].double().softmax(-1).sort(descending=True, stable=True)
    sums = ordered.cumsum(0)
    drawn = torch.rand(1, generator=generator, dtype=torch.float64) * sums[-1]
    return int(tokens[places[min(int(torch.searchsorted(sums, drawn, right=True)), int(ordered.count_nonzero()) - 1)]])
