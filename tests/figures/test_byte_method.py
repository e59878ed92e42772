"""How bits are spent, in pictures: what each shows at every position of the slider, and where there are none."""

from __future__ import annotations

import pytest

from acip_core.artifacts.loading import Loaded
from acip_core.errors import GenerationError
from acip_core.figures.byte_method import byte_method_pictures
from acip_core.figures.pictures import Picture, layer_types
from acip_core.model.byte_planner import BytePlanner
from acip_core.model.size_planner import BOTH
from acip_core.model.tracks import Track, byte_track
from acip_core.ui.galleries import Galleries
from tests.support.coded import opened_with_codes
from tests.support.visitor import tiny_loaded


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return opened_with_codes(tiny_loaded())


@pytest.fixture(scope="module")
def track(loaded: Loaded) -> Track:
    planner = loaded.elastic.planners[BOTH]
    assert isinstance(planner, BytePlanner)
    return byte_track(planner, 71)


@pytest.fixture(scope="module")
def pictures(loaded: Loaded, track: Track) -> list[Picture]:
    assert loaded.elastic.coded is not None and loaded.coding is not None
    return byte_method_pictures(track, loaded.elastic.coded, layer_types(loaded.artifact), loaded.coding.curves)


def test_all_of_them_follow_the_slider(pictures: list[Picture], track: Track) -> None:
    assert [picture.title[:2] for picture in pictures] == ["1.", "2.", "3.", "4."]
    for picture in pictures:
        assert picture.frames is not None and set(picture.frames) == set(track.percents)
        frames = [str(picture.frames[percent]) for percent in track.percents]
        assert len(set(frames)) > 10 and len(picture.note) > 20


def test_the_rings_stand_on_the_lines_at_what_the_size_holds(
    loaded: Loaded, pictures: list[Picture], track: Track
) -> None:
    kinds, planner = layer_types(loaded.artifact), track.planner
    assert isinstance(planner, BytePlanner) and pictures[0].frames is not None
    lines = pictures[0].figure.data[: len(kinds)]
    for percent in (track.percents[0], track.percents[20], 100):
        ((place, rings),) = pictures[0].frames[percent]
        assert place == len(kinds)
        states = dict(zip(planner.hulls, track.plan_at(percent)[1].states, strict=True))
        for names, line, x, y in zip(kinds.values(), lines, rings["x"], rings["y"], strict=True):
            name = names[len(names) // 2]
            held = next(point for point in planner.hulls[name] if point.state == states[name])
            assert y == (held.loss or None)
            assert y is None or (x, y) in zip(line.x, line.y, strict=True)


def test_the_filled_part_of_the_order_ends_at_the_size(pictures: list[Picture], track: Track) -> None:
    order = pictures[1]
    assert order.frames is not None
    worths = list(order.figure.data[0].y)
    assert worths == sorted(worths, reverse=True)
    most = order.figure.data[0].x[-1]
    for percent in track.percents:
        ((_, bought),) = order.frames[percent]
        size = track.plan_at(percent)[1].bytes / 1e6
        assert bought["x"][-1] == pytest.approx(min(size, most), abs=6e-5) and max(bought["x"]) == bought["x"][-1]


def test_without_a_measurement_the_last_is_left_out(loaded: Loaded, track: Track) -> None:
    assert loaded.elastic.coded is not None
    assert len(byte_method_pictures(track, loaded.elastic.coded, layer_types(loaded.artifact), ())) == 3


def test_a_mode_that_is_not_there_has_none(loaded: Loaded, track: Track) -> None:
    def only_both(mode: str) -> Track:
        if mode == BOTH:
            return track
        raise GenerationError("not yet")

    galleries = Galleries(loaded, only_both)
    assert [picture["title"][:2] for picture in galleries.made("method.both")] == ["1.", "2.", "3.", "4."]
    for name in ("method.bits", "method.<b>", "bytes", "bytes."):
        with pytest.raises(KeyError):
            galleries.made(name)
    with pytest.raises(KeyError):
        Galleries(loaded).made("method.both")
    assert galleries.made("method")[0]["title"].startswith("1. ")
