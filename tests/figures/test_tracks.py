"""The slider in every mode: where its positions lie, what is told of each, and what the pictures of bytes show."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from acip_core.artifacts.coding import CodedCurve, CodedPoint
from acip_core.artifacts.loading import Loaded
from acip_core.figures.byte_chart import byte_figure, source_file_bytes
from acip_core.figures.byte_cut import foretold_picture, held_picture
from acip_core.figures.byte_rows import byte_rows, fidelity_at, relative_at
from acip_core.figures.chart import curve_figure
from acip_core.figures.pictures import layer_types
from acip_core.figures.size_table import size_table
from acip_core.model.base_model import BaseModel
from acip_core.model.byte_planner import BytePlanner
from acip_core.model.operating_points import OperatingPoint, coded_state
from acip_core.model.quantization import at_precision
from acip_core.model.size_planner import BITS, BOTH, DENSE, MODES
from acip_core.model.tracks import Track, byte_track, directions_track
from tests.support.coded import made_up_peers, opened_with_codes
from tests.support.tiny import tiny_base
from tests.support.visitor import tiny_loaded


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return opened_with_codes(tiny_loaded())


def planner(loaded: Loaded, mode: str) -> BytePlanner:
    found = loaded.elastic.planners[mode]
    assert isinstance(found, BytePlanner)
    return found


def as_the_default() -> BytePlanner:
    """269 MB as published, exact from 96.6 MB on, smallest at 20 MB."""
    exact, floor = 96_600_000, 20_000_000
    count = 600
    points = {
        f"layer {i}": (
            OperatingPoint(floor // count, 0.01, coded_state(1, False)),
            OperatingPoint(exact // count, 0.0, DENSE),
        )
        for i in range(count)
    }
    return BytePlanner(points, 0, 0, 269_000_000, 134_000_000, 106_000_000, BOTH)


def test_directions_are_whole_percentages_as_ever(loaded: Loaded) -> None:
    track = directions_track(loaded.elastic.planner)
    assert track.percents == tuple(range(30, 101)) and track.compared == [100, 80, 60, 40]
    for percent, plan in ((47.4, 0.47), (-5, 0.3), (math.nan, 1.0), (None, 1.0)):
        assert track.plan_at(percent)[1] == loaded.elastic.planner.at_ratio(plan)


def test_megabytes_lie_on_a_logarithmic_track() -> None:
    track = byte_track(as_the_default(), 71)
    megabytes = [2.69 * percent for percent in track.percents]
    assert len(track.percents) == 71 and megabytes == sorted(megabytes)
    assert 40 <= megabytes[0] < 40.3 and megabytes[-1] == 269
    factors = [b / a for a, b in pairwise(megabytes)]
    assert min(factors) > 1.01 and max(factors) < 1.05  # but for the sizes that are put onto the track, all the same
    assert {24, 30, 40, 100} < set(track.percents) and track.compared == [100, 40, 30, 24]
    exact = [percent for percent in track.percents if track.plan_at(percent)[1].loss == 0]
    assert min(exact) == 36  # 96.8 MB
    assert all(track.plan_at(percent)[1].bytes == 96_600_000 for percent in exact)
    assert track.distinct[:2] == (100, 36) and track.distinct[-1] == track.percents[0]


def test_the_full_size_is_the_model_itself_and_what_is_out_of_range_the_nearest_end(loaded: Loaded) -> None:
    for mode in (BITS, BOTH):
        track = byte_track(planner(loaded, mode), 71)
        for percent in (100, 1e9, None, math.inf):
            assert set(track.plan_at(percent)[1].states) == {DENSE}
        assert track.plan_at(0) == track.plan_at(track.percents[0])
        assert track.plan_at(24.26)[0] == 24.3


def test_a_model_with_little_to_spend_keeps_its_smallest_plan() -> None:
    points = {"layer": (OperatingPoint(60, 1.0, coded_state(0, False)), OperatingPoint(90, 0.0, DENSE))}
    track = byte_track(BytePlanner(points, 0, 0, 100, 50, 50, BITS), 71)
    assert track.percents[0] == 60 and track.percents[-1] == 100 and track.compared == [100]
    assert byte_track(BytePlanner({"layer": points["layer"][1:]}, 0, 10, 100, 50, 50, BITS), 71).percents == (100,)


def test_between_measured_points_figures_lie_on_straight_lines_of_the_logarithms() -> None:
    points = tuple(CodedPoint(size, 0.0, 0.1, 10.0 * worse, 0, 0) for size, worse in ((40_000, 2.0), (20_000, 8.0)))
    curve = CodedCurve(BOTH, "c4", 8, 10.0, points)
    assert relative_at(curve, 40_000, 80_000) == pytest.approx(2) and relative_at(curve, 80_000, 80_000) == 1
    assert relative_at(curve, round(20_000 * 2**0.5), 80_000) == pytest.approx(4, rel=0.001)
    assert relative_at(curve, round(40_000 * 2**0.5), 80_000) == pytest.approx(2**0.5, rel=0.001)
    assert relative_at(curve, 19_000, 80_000) is None


def test_agreement_and_divergence_lie_between_the_measured_points_and_the_exact_size(loaded: Loaded) -> None:
    pairs = ((40_000, 0.2, 0.8), (20_000, 1.0, 0.4))
    curve = CodedCurve(BOTH, "c4", 8, 10.0, tuple(CodedPoint(size, 0, 0, 10, d, a) for size, d, a in pairs))
    assert fidelity_at(curve, 40_000, 80_000) == pytest.approx((0.2, 0.8)) and fidelity_at(curve, 9, 80_000) is None
    assert fidelity_at(curve, 80_000, 80_000) == (0.0, 1.0)
    assert fidelity_at(curve, round(20_000 * 2**0.5), 80_000) == pytest.approx((0.6, 0.6), abs=1e-4)
    assert fidelity_at(curve, round(40_000 * 2**0.5), 80_000) == pytest.approx((0.1, 0.9), abs=1e-4)
    assert loaded.coding is not None
    rows = byte_rows(byte_track(planner(loaded, BOTH), 71), loaded.coding.curves, {})
    assert (rows[-1].divergence, rows[-1].agreement) == (0.0, 1.0) and rows[0].agreement is None
    known = [row.agreement for row in rows if row.agreement is not None]
    assert known == sorted(known) and known[0] < 0.95


def test_rows_of_directions_have_the_worse_corpus_where_all_were_compared(loaded: Loaded) -> None:
    first, second = loaded.artifact.curves
    far = replace(first, points=tuple(replace(p, divergence=1 - p.ratio, agreement=p.ratio) for p in first.points))
    near = replace(second, points=tuple(replace(p, divergence=0.0, agreement=1.0) for p in second.points))
    rows = {row.percent: row for row in size_table(loaded.elastic.planner, (far, near))}
    assert rows[65].agreement == pytest.approx(0.65, abs=0.01) and rows[65].divergence == pytest.approx(0.35, abs=0.01)
    assert (rows[100].divergence, rows[100].agreement) == (0.0, 1.0)
    for curves in ((far, second), (first, second), ()):
        assert {row.agreement for row in size_table(loaded.elastic.planner, curves)} == {None}


def test_rows_say_what_was_measured_and_what_is_predicted(loaded: Loaded) -> None:
    assert loaded.coding is not None
    track = byte_track(planner(loaded, BOTH), 71)
    rows = byte_rows(track, loaded.coding.curves, {"c4": 30.0, "wikipedia": 20.0})
    assert [row.percent for row in rows] == list(track.percents) and rows[-1].perplexity["c4"] == 30.0
    least = min(point.bytes for point in loaded.coding.curves[0].points)
    assert all(row.predicted == (row.bytes < least) for row in rows) and rows[0].predicted and not rows[-1].predicted
    assert all(row.perplexity["wikipedia"] == pytest.approx(20 * (row.relative or 0)) for row in rows if row.predicted)
    assert rows[-1].next_megabyte == 0 and all(0 <= (row.next_megabyte or 0) < 1 for row in rows)
    unmeasured = byte_rows(track, (), {})
    assert [row.relative for row in unmeasured] == sorted((row.relative or 0 for row in unmeasured), reverse=True)


def test_every_trace_has_its_own_bytes(loaded: Loaded) -> None:
    assert loaded.coding is not None
    for mode in (BITS, BOTH):
        track = byte_track(planner(loaded, mode), 71)
        figure = byte_figure(track, loaded.coding.curves, 50_000)
        predicted, *measured, source = figure["data"]
        curves = [curve for curve in loaded.coding.curves if curve.mode == mode]
        assert [trace["name"] for trace in measured] == ["C4", "Wikipedia"]
        for trace, curve in zip(measured, curves, strict=True):
            assert [1e6 * x for x in trace["x"]] == pytest.approx(sorted(point.bytes for point in curve.points))
        sizes = {track.planner.at_bytes(1e6 * x + 0.5).bytes for x in predicted["x"]}
        assert sizes == {round(1e6 * x) for x in predicted["x"]} and predicted["line"]["dash"] == "dash"
        assert source["x"] == [0.05, 0.05] and "source file" in source["name"]
        assert figure["layout"]["xaxis"]["type"] == figure["layout"]["yaxis"]["type"] == "log"
        assert len(byte_figure(track, (), None)["data"]) == 1


def test_what_loses_nothing_is_drawn_up_to_the_published_size(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    track, base = byte_track(planner(loaded, BOTH), 71), planner(loaded, BOTH).base_bytes
    least = planner(loaded, BOTH).smallest + 1
    monkeypatch.setattr(BytePlanner, "largest", property(lambda _: least))
    *_, original = byte_figure(track, (), None)["data"]
    assert original["name"] == "the original" and f"{least / 1e6:.1f} MB" in original["meta"]
    assert (original["x"], original["y"]) == ([least / 1e6, base / 1e6], [1, 1])


def test_a_line_has_its_error_as_a_band_and_in_words(loaded: Loaded) -> None:
    assert loaded.coding is not None
    track = byte_track(planner(loaded, BOTH), 71)

    def with_errors(curve):
        return replace(curve, points=tuple(replace(p, error=0.1 * i) for i, p in enumerate(curve.points)))

    coded = [with_errors(curve) for curve in loaded.coding.curves if curve.mode == BOTH]
    own = [with_errors(curve) for curve in loaded.artifact.curves]
    for figure, plain in (
        (byte_figure(track, coded, None), byte_figure(track, loaded.coding.curves, None)),
        (curve_figure(own, 30), curve_figure(loaded.artifact.curves, 30)),
    ):
        lines = [t for t in figure["data"] if t["name"] in ("C4", "Wikipedia") and "fill" not in t]
        bands = [t for t in figure["data"] if "fill" in t]
        assert not [t for t in plain["data"] if "fill" in t], "without errors there is no band"
        assert [t["name"] for t in bands] == [t["name"] for t in lines] == ["C4", "Wikipedia"]
        for line, band in zip(lines, bands, strict=True):
            count = len(line["x"])
            assert band["x"] == [*line["x"], *reversed(line["x"])]
            low, high = band["y"][:count], band["y"][: count - 1 : -1]
            spread = [math.exp(0.2 * i) for i in reversed(range(count))]  # the largest size came first
            assert [h / y for h, y in zip(high, line["y"], strict=True)] == pytest.approx(spread)
            assert [y / under for under, y in zip(low, line["y"], strict=True)] == pytest.approx(spread)
            assert line["text"][-1] == "" and line["text"][-2] == f" ± {100 * math.expm1(0.2):.2g} %"
            assert "band" in line["meta"]
        assert not [t for t in plain["data"] if "band" in t.get("meta", "")]


def test_every_name_in_a_legend_has_a_sentence(loaded: Loaded) -> None:
    track = byte_track(planner(loaded, BOTH), 71)
    others = replace(loaded.artifact.curves[0], method="fisher-envelope")
    quantized = [
        replace(others, method=at_precision(loaded.artifact.curves[0].method, name)) for name in ("int8", "nf4")
    ]
    assert loaded.coding is not None
    for figure in (
        byte_figure(track, loaded.coding.curves, 50_000, made_up_peers()),
        curve_figure([*loaded.artifact.curves, others, *quantized], 30, 100_000, 50_000),
    ):
        named = [t for t in figure["data"] if t.get("showlegend", True)]
        assert len(named) >= 6 and all(len(t["meta"]) > 20 and t["meta"].endswith(".") for t in named)


def test_other_quantizers_are_drawn_at_their_own_bytes_and_what_one_of_theirs_beats_is_not_joined(
    loaded: Loaded,
) -> None:
    track, peers = byte_track(planner(loaded, BOTH), 71), made_up_peers()
    beaten = [replace(p, setting="worse", bytes=45_000, perplexity=2 * p.perplexity) for p in peers.points[:2]]
    figure = byte_figure(track, (), None, replace(peers, points=(*peers.points, *beaten)))
    _, rtn, gptq = figure["data"]
    assert (gptq["name"], rtn["name"]) == ("GPTQ", "round-to-nearest")
    assert gptq["x"] == [0.04, 0.05, None, 0.045] and rtn["x"] == [0.052]
    assert gptq["y"] == pytest.approx([1.6, 1.2, None, 2.4])  # the worse corpus
    assert gptq["text"] == ["3 bits", "4 bits", "", "worse"]
    assert gptq["customdata"][0] == pytest.approx([0.04, 100 * 40_000 / planner(loaded, BOTH).base_bytes])
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < 0 < math.log10(2.4) < high


def test_the_source_file_is_the_one_the_model_was_read_from(tmp_path: Path) -> None:
    base = tiny_base()
    file = tmp_path / "model.gguf"
    file.write_bytes(bytes(123))
    assert source_file_bytes(base) is None
    assert source_file_bytes(BaseModel(base.model, base.tokenizer, "model", str(file))) == 123


def test_the_picture_shows_the_bits_of_every_layer_at_every_size(loaded: Loaded) -> None:
    states = loaded.elastic.coded
    assert states is not None
    kinds = layer_types(loaded.artifact)
    track = byte_track(planner(loaded, BITS), 71)
    picture = held_picture(track, states, kinds)
    assert picture.frames is not None and set(picture.frames) == set(track.percents)
    names = [name for of_kind in (*kinds.values(), *([table] for table in states.tables)) for name in of_kind]
    weights = [states.coded.matrices[name].codes[0].z.numel() for name in names]
    other = planner(loaded, BITS).other_bytes
    for percent in (track.percents[0], 30, 100):
        ((_, cells),) = picture.frames[percent]
        held = [value for row in cells["z"] for value in row if value is not None]
        plan = track.plan_at(percent)[1]
        if percent != 100:  # the color ends at 8 bits
            total = sum(n * bits / 8 for n, bits in zip(weights, held, strict=True) if bits < 8)
            assert total <= plan.bytes - other + 0.005 * sum(weights) / 8  # as the bits are rounded
        dots = sum(text == "•" for row in cells["text"] for text in row)
        assert dots == sum(state == DENSE for state in plan.states)


def test_predicted_losses_stand_against_measured_ones(loaded: Loaded) -> None:
    assert loaded.coding is not None
    track = byte_track(planner(loaded, BOTH), 71)
    picture = foretold_picture(track, loaded.coding.curves)
    assert picture is not None and picture.frames is not None
    c4 = picture.figure.data[0]
    own = next(curve for curve in loaded.coding.curves if curve.mode == BOTH and curve.corpus == "c4")
    assert list(c4.y) == pytest.approx([math.log(p.perplexity / own.base_perplexity) for p in own.points])
    assert picture.frames[100][0][1] == {"x": [None], "y": [None]}
    assert foretold_picture(track, ()) is None


@pytest.mark.parametrize("mode", MODES)
def test_sizes_have_names_for_people(loaded: Loaded, mode: str) -> None:
    if mode == "directions":
        assert directions_track(loaded.elastic.planner).named(60) == "60 %"
    else:
        assert Track(as_the_default(), (100,)).named(26) == "69.9 MB"
