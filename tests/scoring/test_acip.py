"""Scoring by pruning: Algorithm 1, the schedule and the gradient by hand; whole runs by their invariants."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from acip_core.errors import ModelError
from acip_core.model.elastic_model import build_elastic
from acip_core.model.layers import Adapter
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from acip_core.scoring.acip import acip_scores
from acip_core.scoring.mask_parameters import Masks
from acip_core.scoring.masked import MaskedLinear
from acip_core.scoring.pruning_config import PAPER
from tests.support.pruning import SETTINGS, run
from tests.support.tiny import calibration, generator, tiny_base, tiny_factors

pytestmark = pytest.mark.usefixtures("exact")


def test_the_schedule_of_the_paper():
    assert [PAPER.penalty_at(step) for step in (0, 3, 4, 7)] == pytest.approx([1e-3, 1e-3, 1.01e-3, 1.01e-3])
    assert PAPER.penalty_at(400) == pytest.approx(1e-3 * 1.01**100)


def test_algorithm_1_by_hand():
    """Two layers of (2, 3) and (4, 2): two directions each, break-even between one and two."""
    masks = Masks([(2, 3), (4, 2)], torch.full((4,), 0.02))
    masks.values.data = torch.tensor([0.5, -0.25, 0.75, 0.125])
    assert masks.prune(1) == [0]  # the second direction
    assert masks.size == pytest.approx((5 + 8) / 14)
    masks.values.data = torch.tensor([0.5, -0.25, 0.0, 0.125])
    assert masks.prune(2) == [1]
    assert masks.size == pytest.approx((5 + 6) / 14)
    assert masks.prune(3) == [] and masks.left.tolist() == [1, 1]
    assert masks.scores(4).tolist() == [0.5, -0.25 - 3, 0.0 - 2, 0.125]


def test_a_pruned_direction_is_never_counted_twice_and_size_is_recounted_rightly():
    masks = Masks([(8, 8), (4, 12)], torch.linspace(0.1, 1.2, 12))
    for step in range(1, 14):
        masks.values.data -= 0.1
        masks.prune(step)
        left = [int((masks.pruned_at[part] < 0).sum()) for part in masks.slices]
        expected = min(left[0] * 16, 64) + min(left[1] * 16, 48)
        assert masks.size == pytest.approx(expected / 112)
    other = Masks([(8, 8), (4, 12)], torch.ones(12))
    other.restore(masks.pruned_at)
    assert other.size == masks.size == 0


def layer_and_factors(seed: int = 0):
    source = generator(seed)
    layer = torch.nn.Linear(6, 5)
    layer.weight.data = torch.randn(5, 6, generator=source)
    up = torch.linalg.qr(torch.randn(5, 5, generator=source)).Q
    return layer, up @ layer.weight.data, up


def test_the_gradient_is_that_of_an_explicit_mask():
    layer, down, up = layer_and_factors()
    adapter = Adapter(layer, 2, 1.0, generator())
    adapter.b.data = torch.randn(5, 2, generator=generator(2))
    masked = MaskedLinear(layer, down, up, torch.arange(5), adapter)
    pruned = torch.tensor([False, True, False, False, False])
    x = torch.randn(2, 7, 6, generator=generator(1))
    for step in range(2):
        mask = torch.ones(5).masked_fill(pruned, 0).requires_grad_()
        product = F.linear(x, up.T @ (mask[:, None] * down)) + adapter(x) + layer.bias
        product.square().sum().backward()
        if step == 0:  # few enough to be masked; in the second round enough to be shed
            masked._hold(masked.left, masked.down, masked.up)
            masked.mask = mask.detach()
        else:
            assert masked.prune(pruned) and masked.left.tolist() == [0, 2, 3, 4] and len(masked.down) == 4
        y = masked(x)
        torch.testing.assert_close(y, product)
        y.square().sum().backward()
        torch.testing.assert_close(masked.gradient[mask[masked.left] > 0], mask.grad[~pruned])


def test_the_first_step_moves_masks_by_the_sign_of_gradient_plus_penalty():
    settings = replace(SETTINGS, penalty=1e9, mask=1.0)  # the penalty outweighs every gradient
    steps = run(settings=settings)
    next(steps)
    steps.close()
    result = finish(run(settings=replace(settings, mask=1e-3)))  # everything falls at the first step
    assert len(result.history["size"]) == 1 + settings.post_steps
    assert all((score <= 0).all() for score in result.scores.values())


def test_a_run_prunes_down_to_the_stop_and_ranks_what_it_pruned(family: str):
    base = tiny_base(family)
    factors = tiny_factors(base)
    result = finish(acip_scores(base, factors, calibration(), SETTINGS))
    size = result.history["size"]
    stop = len(size) - SETTINGS.post_steps - 1
    assert size[stop] <= 0.5 < size[stop - 1] and (size.diff() <= 0).all()
    assert (size[stop:] == size[stop]).all()
    assert torch.equal(result.history["lambda"], torch.tensor([SETTINGS.penalty_at(i) for i in range(len(size))]))
    elastic = finish(build_elastic(base, factors, result.scores))
    left = {name: int((score > 0).sum()) for name, score in result.scores.items()}
    shapes = {name: layer.weight.shape for name, layer in target_layers(tiny_base(family).model).items()}
    kept = sum(min(k * sum(shapes[name]), shapes[name].numel()) for name, k in left.items())
    assert kept / elastic.planner.base_target_parameters == pytest.approx(size[-1].item())
    trajectories, sample = result.history["trajectories"], result.history["sample"]
    names = list(result.scores)
    assert [sorted(names)[place] for place in result.history["places"]] == names
    layers = sample[:, 0].unique().tolist()
    assert len(layers) == 8 and {layers[0], layers[-1]} == {0, len(names) - 1}
    assert (sample[:, 0].bincount()[layers] > 1).all()
    for column, (layer, direction) in enumerate(sample.tolist()):
        score = result.scores[names[layer]][direction]
        last = trajectories[-1, column]
        assert score == last if last > 0 else score <= last
        gone = (trajectories[:, column] <= 0).nonzero()
        assert len(gone) == 0 or torch.equal(trajectories[gone[0, 0] :, column], last.expand(len(gone)))
        if len(gone):
            assert score == pytest.approx((last - (stop - gone[0, 0])).item(), abs=1e-5)


def test_nothing_but_adapters_changes_after_the_stop():
    short, long = (finish(run(settings=replace(SETTINGS, post_steps=steps))) for steps in (0, 6))
    assert all(torch.equal(short.scores[name], long.scores[name]) for name in short.scores)
    assert any(not torch.equal(short.adapters[name].b, long.adapters[name].b) for name in short.adapters)


def test_directions_that_matter_are_kept_longer():
    """Without penalty differences the order of pruning follows the gradient of the masks."""
    base = tiny_base()
    with torch.no_grad():
        base.model.model.layers[1].mlp.down_proj.weight.mul_(1e-3)  # a block that hardly does anything
    result = finish(acip_scores(base, tiny_factors(base), calibration(), replace(SETTINGS, stop_ratio=0.6)))
    mean = {name: score.mean().item() for name, score in result.scores.items()}
    assert mean["model.layers.1.mlp.up_proj"] < mean["model.layers.0.mlp.up_proj"]


def test_excluded_layers_are_not_pruned_and_rank_above_all_others():
    result = finish(run(settings=replace(SETTINGS, exclude=("up_proj", "o_proj"), stop_ratio=0.7)))
    excluded = {name: s for name, s in result.scores.items() if name.endswith(("up_proj", "o_proj"))}
    others = torch.cat([s for name, s in result.scores.items() if name not in excluded])
    assert len(excluded) == 4 and all((s > others.max()).all() for s in excluded.values())
    assert (others <= 0).any()


def test_a_warm_start_begins_in_the_order_of_its_scores():
    base = tiny_base()
    factors = tiny_factors(base)
    warm = {name: torch.rand(len(f.directions), generator=generator(i)) for i, (name, f) in enumerate(factors.items())}
    settings = replace(SETTINGS, warm_start=0.9, penalty=1e6, adapter_learning_rate=0.0, post_steps=0, stop_ratio=0.3)
    result = finish(acip_scores(base, factors, calibration(), settings, warm))
    flat = torch.cat(list(result.scores.values())), torch.cat(list(warm.values()))
    ranks = torch.stack([x.argsort().argsort().float() for x in flat])
    assert torch.corrcoef(ranks)[0, 1] > 0.95
    with pytest.raises(ModelError, match="warm start"):
        next(acip_scores(base, factors, calibration(), settings))


@pytest.mark.parametrize("how", ["finished", "cancelled", "failed"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_model_is_as_before(how: str, family: str, checkpointing: bool):
    base = tiny_base(family)
    factors, before = tiny_factors(base), base.model(calibration()).logits
    modules = [type(m) for m in base.model.modules()]
    weights = {name: p.clone() for name, p in base.model.named_parameters()}
    flags = [p.requires_grad for p in base.model.parameters()]
    steps = acip_scores(base, factors, calibration(), replace(SETTINGS, checkpointing=checkpointing))
    next(steps)
    if how == "finished":
        finish(steps)
    elif how == "cancelled":
        steps.close()
    else:
        with pytest.raises(RuntimeError, match="from outside"):
            steps.throw(RuntimeError("from outside"))
    assert [type(m) for m in base.model.modules()] == modules and not base.model.training
    assert [p.requires_grad for p in base.model.parameters()] == flags
    assert all(torch.equal(p, weights[name]) for name, p in base.model.named_parameters())
    assert torch.equal(base.model(calibration()).logits, before)


@pytest.mark.parametrize("change", [{"micro_batch": 1}, {"checkpointing": True}])
def test_accumulation_and_checkpointing_change_nothing_but_rounding(change: dict):
    plain = replace(SETTINGS, dropout=0.0)
    one, other = finish(run(settings=plain)), finish(run(settings=replace(plain, **change)))
    assert one.history["size"].shape == other.history["size"].shape
    for name, score in one.scores.items():
        torch.testing.assert_close(other.scores[name], score, rtol=1e-3, atol=1.01)
    torch.testing.assert_close(one.history["loss"], other.history["loss"], rtol=1e-3, atol=1e-3)


def test_distillation_starts_at_no_divergence():
    result = finish(run(settings=replace(SETTINGS, distillation=1.0, dropout=0.0)))
    assert result.history["loss"][0].abs() < 1e-5 < result.history["loss"][-1]
