"""Iterated Fisher information: places that respect every cut, stages that see it, exact resumption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acip_core.model.base_model import BaseModel
from acip_core.model.size_planner import DENSE, SizePlanner
from acip_core.progress import finish
from acip_core.scoring.envelope import envelope_scores
from acip_core.scoring.fisher import accumulated, per_token
from acip_core.scoring.iterative import STAGES, iterative_scores
from acip_core.storage.resumable import ResumableRun
from tests.support.tiny import calibration, target_weights, tiny_base, tiny_factors

pytestmark = pytest.mark.usefixtures("exact")


def shapes_of(base: BaseModel) -> dict[str, tuple[int, int]]:
    return {name: (w.shape[0], w.shape[1]) for name, w in target_weights(base).items()}


def cut_of(base: BaseModel, places: dict[str, torch.Tensor], ratio: float, adapter_rank: int = 0) -> list[set[int]]:
    """The directions of every layer at a size, those of dense layers as an empty set."""
    planner = SizePlanner(shapes_of(base), {name: p.numpy() for name, p in places.items()}, adapter_rank)
    ranks = planner.at_ratio(ratio).ranks
    best = [p.argsort(descending=True).tolist() for p in places.values()]
    return [set() if k == DENSE else set(order[:k]) for order, k in zip(best, ranks, strict=True)]


def test_places_are_an_order_of_all_directions(base: BaseModel):
    places = finish(iterative_scores(base.model, tiny_factors(base), calibration()))
    assert list(places) == list(target_weights(base))
    flat = torch.cat(list(places.values()))
    assert flat.dtype == torch.float32
    torch.testing.assert_close(flat.sort().values, torch.arange(1, len(flat) + 1) / len(flat))


def test_without_stages_it_is_the_information_of_the_full_model():
    base = tiny_base()
    factors = tiny_factors(base)
    places = finish(iterative_scores(base.model, factors, calibration(), 2, stages=()))
    gains = finish(accumulated(per_token, base.model, factors, calibration()))
    scores = {name: envelope_scores(gain, shapes_of(base)[name], 2) for name, gain in gains.items()}
    assert torch.equal(
        torch.cat(list(places.values())).argsort(), torch.cat(list(scores.values())).argsort(stable=True)
    )


def test_a_later_stage_does_not_change_larger_sizes():
    base = tiny_base()
    factors = tiny_factors(base)
    few = finish(iterative_scores(base.model, factors, calibration()[:1], stages=(0.8,)))
    more = finish(iterative_scores(base.model, factors, calibration()[:1], stages=(0.8, 0.6)))
    assert cut_of(base, few, 0.9) == cut_of(base, more, 0.9)
    assert cut_of(base, few, 0.5) != cut_of(base, more, 0.5)


def test_a_stage_sees_the_cut_before_it():
    base = tiny_base()
    factors = tiny_factors(base)
    ranked = finish(iterative_scores(base.model, factors, calibration(), stages=(0.6,)))
    sets = cut_of(base, ranked, 0.6)
    left = {name: torch.zeros(len(p), dtype=torch.bool) for name, p in ranked.items()}
    for mask, chosen in zip(left.values(), sets, strict=True):
        mask[list(chosen) if chosen else slice(None)] = True
    windows = calibration()[1::2]  # the second stage's share
    gains = finish(accumulated(per_token, base.model, factors, windows, left))
    for name, shape in shapes_of(base).items():
        chosen = left[name].nonzero().squeeze(1)
        if 1 < len(chosen) < len(left[name]):
            density = gains[name][chosen] / sum(shape)
            assert torch.equal(density.argsort(), ranked[name][chosen].argsort())


@pytest.mark.parametrize("after", [1, 5, 11])
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, after: int):
    base = tiny_base()
    factors = tiny_factors(base)
    windows = torch.cat([calibration()] * 4)[: 2 * (len(STAGES) + 1)]
    whole = finish(iterative_scores(base.model, factors, windows))
    steps = iterative_scores(base.model, factors, windows, run=ResumableRun(tmp_path))
    for _ in range(after):
        next(steps)
    steps.close()
    rest = []
    again = finish(iterative_scores(base.model, factors, windows, run=ResumableRun(tmp_path)), rest.append)
    assert all(torch.equal(again[name], place) for name, place in whole.items())
    assert rest[0].done == (after - 1) // 2 * 2 + 1 and rest[-1].done == rest[-1].total == len(windows)
    assert not list(iterative_scores(base.model, factors, windows, run=ResumableRun(tmp_path)))


@pytest.mark.parametrize("damage", ["truncated", "other text", "other adapters"])
def test_what_another_run_left_is_not_used(tmp_path: Path, damage: str):
    base = tiny_base()
    factors, run = tiny_factors(base), ResumableRun(tmp_path)
    whole = finish(iterative_scores(base.model, factors, calibration()))
    if damage == "other text":
        finish(iterative_scores(base.model, factors, calibration().flip(1), run=run))
    else:
        finish(iterative_scores(base.model, factors, calibration(), 2 if damage == "other adapters" else 0, run=run))
    if damage == "truncated":
        for path in tmp_path.rglob("stage-*.safetensors"):
            path.write_bytes(path.read_bytes()[:-40])
    again = finish(iterative_scores(base.model, factors, calibration(), run=run))
    assert all(torch.equal(again[name], place) for name, place in whole.items())


def test_sizes_below_the_adapters_are_left_out():
    base = tiny_base()
    seen = []
    finish(iterative_scores(base.model, tiny_factors(base), calibration(), adapter_rank=8), seen.append)
    smallest = min(float(step.note.split("%")[0].removeprefix("at ")) for step in seen)
    assert smallest > 40 and seen[-1].done == seen[-1].total
