"""The pictures of an artifact: figures that mean what they show, one file that needs nothing else, the page's part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import expect

from acip_core.artifacts.artifact import Artifact, default_artifact
from acip_core.artifacts.loading import Loaded
from acip_core.artifacts.reader import read_artifact
from acip_core.errors import ArtifactError
from acip_core.figures.comparison_picture import comparison_picture
from acip_core.figures.pictures import (
    gallery,
    history_pictures,
    score_map_figures,
    training_figures,
    trajectories_figure,
)
from acip_core.figures.report import write_report
from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.model.size_planner import DENSE
from acip_core.ui.galleries import Galleries
from tests.support.browser import Newcomer
from tests.support.pictures import HOSTILE, MOST_BYTES, a_comparison, pruning_history
from tests.support.tiny import tiny_artifact, tiny_base
from tests.support.visitor import opened, served, tiny_loaded, wait_state


def test_a_score_map_of_every_layer_type(artifact: Artifact) -> None:
    figures = score_map_figures(artifact)
    assert set(figures) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    for kind, figure in figures.items():
        (map_,) = figure.data
        rank = len(artifact.scores[next(name for name in artifact.scores if name.endswith(kind))])
        assert map_.z.shape == (rank, 2) and list(map_.x) == [0, 1] and len(map_.y) == rank
        assert map_.z.min() >= 0 and map_.z.max() <= 1 and (np.diff(map_.z, axis=0) <= 0).all()
        assert 0 < map_.y[0] < map_.y[-1] < 100
        assert map_.customdata[0, 0, 0] == 1 and map_.customdata[-1, 0, 1] == rank
    assert max(figure.data[0].z.max() for figure in figures.values()) == 1
    assert min(figure.data[0].z.min() for figure in figures.values()) == 0


def test_quantiles_do_not_depend_on_the_unit_of_scores(artifact: Artifact) -> None:
    scaled = replace(artifact, scores={name: (7 * score).exp() - 3 for name, score in artifact.scores.items()})
    for kind, figure in score_map_figures(scaled).items():
        np.testing.assert_array_equal(figure.data[0].z, score_map_figures(artifact)[kind].data[0].z)


def test_equal_scores_are_shown_as_equal(artifact: Artifact) -> None:
    flat = replace(artifact, scores={name: torch.ones_like(score) for name, score in artifact.scores.items()})
    for figure in score_map_figures(flat).values():
        assert (figure.data[0].z == 0.5).all()


def test_the_size_a_direction_is_kept_down_to() -> None:
    loaded = tiny_loaded()
    names = list(loaded.artifact.scores)
    told = score_map_figures(loaded.artifact)["up_proj"].data[0].customdata[:, 1]
    layer = list(loaded.elastic.planner.at_ratio(1).ranks)
    index = next(i for i, name in enumerate(names) if name.endswith("1.mlp.up_proj"))
    assert len(layer) == len(names)
    for _, last, percent in told.tolist():
        ranks = loaded.elastic.planner.at_ratio(percent / 100).ranks
        below = loaded.elastic.planner.at_ratio((percent - 1) / 100).ranks
        assert ranks[index] == DENSE or ranks[index] >= last
        assert below[index] != DENSE and below[index] < last


def test_no_size_is_told_without_adapters() -> None:
    figures = score_map_figures(tiny_artifact(tiny_base(), adapter_rank=0))
    assert all("size" not in figure.data[0].hovertemplate for figure in figures.values())


@pytest.mark.parametrize(("blocks", "rank"), [(100, 4096), (2000, 64), (1, 1), (3, 250)])
def test_large_models_are_binned(artifact: Artifact, blocks: int, rank: int) -> None:
    source = torch.Generator().manual_seed(0)
    scores = {f"model.layers.{i}.q_proj": torch.rand(rank, generator=source) for i in range(blocks)}
    (figure,) = score_map_figures(replace(artifact, scores=scores, adapters=None)).values()
    (map_,) = figure.data
    assert len(map_.z) <= 100 and list(map_.x) == list(range(blocks))
    assert len(figure.to_json()) < MOST_BYTES
    if blocks * rank > 1:
        average = torch.arange(blocks * rank).double().mean().item() / (blocks * rank - 1)
        assert abs(map_.z.mean() - average) < 0.01
    assert (np.diff(map_.z, axis=0) <= 0).all() and map_.customdata[-1, 0, 1] == rank


def test_layers_of_different_rank_and_without_numbers(artifact: Artifact) -> None:
    scores = {
        "a.proj": torch.rand(3),
        "b.proj": torch.rand(50),
        "c.9.proj": torch.rand(1),
        "c.9.x.proj": torch.zeros(0),
    }
    (figure,) = score_map_figures(replace(artifact, scores=scores, adapters=None)).values()
    assert figure.data[0].z.shape == (50, 4) and list(figure.data[0].x) == [
        "a.proj",
        "b.proj",
        "c.9.proj",
        "c.9.x.proj",
    ]
    assert np.isfinite(figure.data[0].z[:, :3]).all() and np.isnan(figure.data[0].z[:, 3]).all()


def test_depth_is_in_the_order_of_blocks(artifact: Artifact) -> None:
    scores = {f"h.{i}.mlp": torch.full((4,), float(i)) for i in (10, 2, 0, 1)}
    (figure,) = score_map_figures(replace(artifact, scores=scores, adapters=None)).values()
    assert list(figure.data[0].x) == [0, 1, 2, 10] and (np.diff(figure.data[0].z[0]) > 0).all()


def test_trajectories() -> None:
    figure = trajectories_figure(pruning_history())
    assert figure is not None
    lines = [t for t in figure.data if t.hovertemplate]
    assert len(lines) == 6 and all(line.y[0] > 0 for line in lines)
    assert "never pruned" in lines[0].hovertemplate and len(lines[0].y) == 40
    assert "layer 5, direction 5" in lines[5].hovertemplate and "pruned at step 27" in lines[5].hovertemplate
    assert (
        [line.y[-1] <= 0 for line in lines].count(True) == sum("pruned at" in line.hovertemplate for line in lines) > 1
    )
    assert len({line.line.color for line in lines}) > 2
    assert figure.layout.yaxis.zeroline
    muted = [t for t in figure.data if t.hoverinfo == "skip" and len(t.x) > 1]
    assert muted and all(y <= 0 for t in muted for y in t.y if y is not None)


def test_the_masks_of_one_layer(artifact: Artifact) -> None:
    names = list(artifact.scores)
    places = torch.tensor([sorted(names).index(name) for name in names])
    history = artifact.history | {"acip.places": places}
    history["acip.sample"] = torch.tensor([[0, 0], [0, 1], [0, 2], [9, 0], [9, 1], [9, 2]])
    picture = history_pictures(history, artifact.scores)[0]
    assert picture.choices is not None
    everything, *layers = picture.choices
    assert layers == [names[0], names[9]] and picture.choices[everything] == list(range(len(picture.figure.data)))
    for layer in layers:
        shown = [picture.figure.data[i] for i in picture.choices[layer]]
        assert sum(f"{layer}, direction" in (t.hovertemplate or "") for t in shown) == 3
        assert {t.legendgroup or layer for t in shown} == {layer}
    assert gallery([picture])[0]["choices"][1] == (names[0], picture.choices[names[0]])
    unnamed = history_pictures(history | {"acip.places": places[:1]}, artifact.scores)[0]
    assert list(unnamed.choices or {})[1:] == ["layer 0", "layer 9"]


def test_no_pictures_of_what_was_not_recorded() -> None:
    assert trajectories_figure({}) is None and training_figures({}) == {} and history_pictures({}) == []
    loss = {"loss": torch.ones(3), "ratio": torch.ones(3)}
    assert list(training_figures(loss)) == ["Adapter training"]
    refining = {f"refining.{name}": values for name, values in loss.items()}
    assert list(training_figures(loss | refining)) == ["Adapter training", "Adapter refining"]
    empty = {name: value[:0] for name, value in pruning_history().items()}
    assert history_pictures(empty) == []


def test_training_figures(artifact: Artifact) -> None:
    figures = training_figures(artifact.history)
    assert len(figures) == 4
    assert figures["Size while pruning"].data[0].y[-1] == pytest.approx(40)
    loss, mean = figures["Loss while pruning"].data
    assert loss.y.shape == mean.y.shape == (40,) and mean.y.mean() == pytest.approx(3.5, abs=0.01)
    assert history_pictures(artifact.history)[0].title == "Masks while pruning"


def test_long_runs_are_thinned() -> None:
    history = pruning_history(20_000, 256) | {"loss": torch.rand(50_000), "ratio": torch.rand(50_000)}
    for picture in gallery(history_pictures(history)):
        assert len(json.dumps(picture)) < MOST_BYTES, picture["title"]
    figure = training_figures(history)["Size while pruning"]
    assert figure.data[0].x[0] == 1 and figure.data[0].x[-1] == 20_000 and len(figure.data[0].x) == 2_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"acip.size": torch.ones(2, 2)},
        {"acip.trajectories": torch.ones(3)},
        {"acip.trajectories": torch.ones(3, 4), "acip.sample": torch.ones(3, 2)},
        {"loss": torch.ones(3), "ratio": torch.ones(4)},
    ],
)
def test_a_history_that_does_not_fit(artifact: Artifact, wrong: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"history\.safetensors: .*; restore the file\."):
        write_report(replace(artifact, history=wrong), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_adapters_that_do_not_fit(artifact: Artifact) -> None:
    scores = {name: score[:-1] for name, score in artifact.scores.items()}
    with pytest.raises(ArtifactError, match="do not fit"):
        score_map_figures(replace(artifact, scores=scores))


def test_the_comparison_shows_the_worse_corpus() -> None:
    ours, other, hostile = comparison_picture(a_comparison()).figure.data
    assert list(ours.x) == [50, 90] and list(ours.y) == pytest.approx([2.2, 2.2]) and ours.line.dash == "solid"
    assert list(other.x) == [90] and list(other.y) == pytest.approx([9.9]) and other.line.dash == "dash"
    assert hostile.name.startswith(HOSTILE[:10])
    assert len(json.dumps(gallery([comparison_picture(a_comparison())]))) < MOST_BYTES


def test_the_default_artifact_has_pictures() -> None:
    default = read_artifact(default_artifact(DEFAULT_MODEL))
    figures = score_map_figures(default)
    assert len(figures) == 7 and all(figure.data[0].z.shape == (100, 30) for figure in figures.values())


# ---- in the browser --------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_the_page_shows_them_when_asked(newcomer: Newcomer, artifact: Artifact) -> None:
    plain = tiny_loaded()
    wrong: list[str] = []
    made = replace(plain.artifact, history=artifact.history)
    with served(Loaded(plain.elastic, made, "", a_comparison())) as (address, _):
        page = opened(newcomer(), address, wrong)
        wait_state(page, "done", 100)
        assert page.locator("#pictures .plot").count() == 0
        page.click("#pictures > button")
        expect(page.locator("#history .plot[data-ready=true]")).to_have_count(6)
        expect(page.locator("#history h3").first).to_have_text("Against other methods")
        page.get_by_label("Masks while pruning: what is shown").select_option("layer 5")
        masks = page.locator("#history .plot[data-shown='layer 5']")
        expect(masks.locator(".scatterlayer .trace .lines path.js-line")).to_have_count(2)
        expect(page.locator("#score-map h3")).to_have_text(["Score map, q_proj", "Kept ranks"])
        page.get_by_role("radio", name="k_proj").check()
        expect(page.locator("#score-map h3")).to_have_text(["Score map, k_proj", "Kept ranks"])
        expect(page.locator("#score-map .plot[data-ready=true] .heatmaplayer")).to_have_count(2)
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_function("document.documentElement.scrollWidth == 390")
        page.close()
    assert wrong == []


def test_a_run_without_masks_leaves_no_empty_section() -> None:
    pictures = Galleries(tiny_loaded()).made("history")
    assert pictures and all(picture["figure"] is not None for picture in pictures)


@pytest.mark.browser
def test_a_damaged_history_is_a_sentence_on_the_page(newcomer: Newcomer) -> None:
    plain = tiny_loaded()
    wrong: list[str] = []
    with served(Loaded(plain.elastic, replace(plain.artifact, history={"acip.size": torch.ones(2, 2)}), "")) as (at, _):
        page = opened(newcomer(), at, wrong)
        page.click("#pictures > button")
        expect(page.locator("#history figcaption")).to_contain_text("history.safetensors")
        expect(page.locator("#score-map .plot[data-ready=true]")).to_have_count(2)
        page.close()
    assert wrong == []
