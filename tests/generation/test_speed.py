"""What a size costs to run, and the pictures that move with the slider."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from acip_core.figures.cut import Cuts
from acip_core.figures.pictures import gallery, layer_types, score_map_pictures
from acip_core.generation.engine import Engine
from acip_core.generation.speed import flops_per_token, lookup_parameters, measure_speeds
from acip_core.model.base_model import BaseModel
from acip_core.model.size_planner import DENSE
from acip_core.ui import measurement_jobs
from acip_core.ui.handlers import Handlers
from tests.support.visitor import REQUEST, tiny_loaded


def test_operations_are_those_of_the_layers_that_run(base: BaseModel) -> None:
    counted = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal counted
        counted += 2 * output.numel() // output.shape[-1] * module.weight.numel()

    for module in base.model.modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            module.register_forward_hook(count)
    base.model(torch.tensor([[3]]), use_cache=False)
    plan = tiny_loaded().elastic.planner.at_ratio(1.0)
    everything = sum(p.numel() for p in base.model.parameters())
    object.__setattr__(plan, "parameters", everything)
    found = flops_per_token(plan, lookup_parameters(base.model))
    small = sum(p.numel() for p in base.model.parameters() if p.dim() == 1)  # norms and biases count, the hook has none
    assert counted <= found <= counted + 2 * small


def test_speed_is_measured_for_every_size_and_can_be_stopped() -> None:
    elastic = tiny_loaded().elastic
    plans = [elastic.planner.at_ratio(ratio) for ratio in (0.5, 1.0)]
    rounds = list(measure_speeds(Engine(elastic), plans, threading.Event()))
    assert len(rounds) == 5 and all(len(speeds) == 2 and min(speeds) > 0 for speeds in rounds)
    cancel = threading.Event()
    steps = measure_speeds(Engine(elastic), plans, cancel)
    next(steps)
    cancel.set()
    assert list(steps) == []


def test_a_size_is_as_fast_as_its_fastest_step(monkeypatch: pytest.MonkeyPatch) -> None:
    elastic = tiny_loaded().elastic
    plans = [elastic.planner.at_ratio(ratio) for ratio in (0.5, 1.0)]
    disturbed = iter([0.5, 0.25, 0.125] + [4.0] * 1000)  # whatever else runs makes steps longer, never shorter
    engine = Engine(elastic)
    monkeypatch.setattr(engine, "decode_seconds", lambda plan, steps: (next(disturbed) for _ in range(3)))
    assert list(measure_speeds(engine, plans, threading.Event()))[-1] == [8.0, 0.25]


def test_sizes_out_of_order_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = Handlers(tiny_loaded())
    speeds = [30.0, 20.0, 25.0, 24.0, 23.0, 22.0, 15.0, 10.0, 12.0]
    monkeypatch.setattr(measurement_jobs, "measure_speeds", lambda *_: iter([speeds]))
    status = list(handlers.speed(REQUEST))[-1]["status"]
    assert status.endswith("one sequence at a time. 40 % and 99 % came out slower than the next larger size.")
    monkeypatch.setattr(measurement_jobs, "measure_speeds", lambda *_: iter([sorted(speeds, reverse=True)]))
    assert list(handlers.speed(REQUEST))[-1]["status"].endswith("one sequence at a time.")


def test_the_page_is_told_speeds_all_over_the_slider() -> None:
    handlers = Handlers(tiny_loaded())
    messages = list(handlers.speed(REQUEST))
    assert messages[-1]["state"] == "done" and handlers.visitors.count == 0
    assert [int(percent) for percent in messages[-1]["speeds"]] == [30, 40, 50, 60, 70, 80, 90, 99, 100]


@pytest.fixture
def cuts() -> Cuts:
    loaded = tiny_loaded()
    lengths = {name: len(loaded.artifact.scores[name]) for name in loaded.elastic.elastic_layers()}
    return Cuts(loaded.elastic.planner, lengths, 30)


def test_the_line_through_a_score_map_is_the_plan(cuts: Cuts) -> None:
    loaded = tiny_loaded()
    kinds, names = layer_types(loaded.artifact), list(loaded.elastic.elastic_layers())
    for kind, picture in score_map_pictures(loaded.artifact).items():
        drawn = cuts.through(picture, kinds[kind])
        assert drawn.frames is not None and list(drawn.frames) == list(range(30, 101))
        assert set(drawn.frames[100][0][1]["y"]) == {100.0}
        for percent in (30, 55, 80):
            ranks = dict(zip(names, loaded.elastic.planner.at_ratio(percent / 100).ranks, strict=True))
            ((trace, values),) = drawn.frames[percent]
            for name, y in zip(kinds[kind], values["y"], strict=True):
                length = len(loaded.artifact.scores[name])
                assert y == (100 if ranks[name] == DENSE else pytest.approx(100 * ranks[name] / length, abs=0.06))
            assert len(drawn.figure.data[trace].x) == len(values["y"])
        assert len(picture.figure.data) == 1  # the library's own stays as it was


def test_kept_ranks_mark_the_dense_layers(cuts: Cuts) -> None:
    loaded = tiny_loaded()
    kinds = layer_types(loaded.artifact)
    picture = cuts.rank_picture(kinds)
    assert picture.frames is not None
    for percent, frame in picture.frames.items():
        plan = loaded.elastic.planner.at_ratio(percent / 100)
        values = frame[0][1]
        assert sum(text == "•" for row in values["text"] for text in row) == plan.ranks.count(DENSE)
        assert all(0 <= z <= 1 for row in values["z"] for z in row)
        told = [int(cell.split()[1]) for row in values["customdata"] for cell in row if cell.startswith("rank")]
        assert sorted(told) == sorted(rank for rank in plan.ranks if rank != DENSE)
    (shown,) = gallery([picture])
    assert shown["frames"].keys() == {str(percent) for percent in range(30, 101)}
