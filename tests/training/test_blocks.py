"""Block training: it repairs cuts block by block, also where blocks are dense or no target; killed runs end alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.errors import ModelError
from acip_core.model import autocast
from acip_core.model.elastic_model import ElasticModel, build_elastic
from acip_core.progress import Progress, finish
from acip_core.storage.resumable import ResumableRun
from acip_core.training import checkpoint
from acip_core.training.balanced import updates_of
from acip_core.training.blocks import BlockConfig, TrainedBlocks, relative_error, train_blocks
from acip_core.training.factors import FactorConfig, train_factors
from tests.support.fidelity import divergence
from tests.support.tiny import calibration, random_scores, tiny_base, tiny_elastic, tiny_factors

pytestmark = pytest.mark.usefixtures("exact")

SETTINGS = BlockConfig(steps=8, batch=2, windows=6, learning_rate=1e-2)


def same(one: TrainedBlocks, other: TrainedBlocks) -> bool:
    pairs = [(a, b) for name, pair in one.factors.items() for a, b in zip(pair, other.factors[name], strict=True)]
    return all(torch.equal(a, b) for a, b in pairs) and torch.equal(one.errors, other.errors)


def test_every_size_comes_closer_to_the_full_model_and_size_one_stays(family: str) -> None:
    elastic = tiny_elastic(family)
    ids = calibration()[:1]
    before = {ratio: divergence(elastic, ratio) for ratio in (0.4, 0.6)}
    full = elastic.model(ids).logits
    trained = finish(train_blocks(elastic, calibration(), replace(SETTINGS, steps=30)))
    assert {ratio: divergence(elastic, ratio) for ratio in before} == before  # nothing is installed yet
    assert trained.errors.shape == (2, 30, 2)
    elastic.update_factors(updates_of(elastic.elastic_layers(), trained.factors))
    for ratio, old in before.items():
        assert divergence(elastic, ratio) < 0.9 * old
    assert torch.equal(elastic.model(ids).logits, full)


def test_a_block_reads_what_those_before_it_were_trained_to() -> None:
    """The second block's error at its first step is lower for the first one's training."""
    settings = replace(SETTINGS, batch=6, steps=12)
    idle = finish(train_blocks(tiny_elastic(), calibration(), replace(settings, learning_rate=0.0)))
    trained = finish(train_blocks(tiny_elastic(), calibration(), settings))
    assert torch.equal(trained.errors[0, 0], idle.errors[0, 0])
    assert (trained.errors[1, 0] < idle.errors[1, 0]).all()


def test_end_to_end_training_starts_from_the_blocks_and_keeps_the_whole_difference() -> None:
    elastic = tiny_elastic()
    trained = finish(train_blocks(elastic, calibration(), SETTINGS))
    idle = FactorConfig(steps=1, batch=2, learning_rate=0.0)
    ended = finish(train_factors(elastic, calibration(), idle, start=trained.factors)).updates
    for name, update in updates_of(elastic.elastic_layers(), trained.factors).items():
        for side, part in vars(update).items():
            torch.testing.assert_close(getattr(ended[name], side).matrix(), part.matrix(), rtol=1e-3, atol=1e-6)
    fresh = finish(train_factors(elastic, calibration(), replace(idle, learning_rate=1e-2)))
    begun = finish(train_factors(elastic, calibration(), replace(idle, learning_rate=1e-2), start=trained.factors))
    assert (begun.losses < fresh.losses).all()


@pytest.mark.parametrize("at", [1, 5, 8, 11])
@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bfloat16"])
def test_a_killed_run_ends_like_one_that_was_not(
    tmp_path: Path, at: int, mixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autocast, "mixed_precision_is_native", lambda device: mixed)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", 0)
    whole = finish(train_blocks(tiny_elastic(), calibration(), SETTINGS))
    steps: list[int] = []

    def kill(step: Progress) -> None:
        if (step.stage, step.done) == ("training blocks", at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(train_blocks(tiny_elastic(), calibration(), SETTINGS, ResumableRun(tmp_path)), kill)
    resumed = train_blocks(tiny_elastic(), calibration(), SETTINGS, ResumableRun(tmp_path))
    assert same(finish(resumed, lambda step: steps.append(step.done) if "error" in step.note else None), whole)
    assert steps == list(range(at + 1, 17))  # nothing is done twice
    other = finish(train_blocks(tiny_elastic(), calibration(), replace(SETTINGS, seed=1), ResumableRun(tmp_path)))
    assert not same(other, whole)


def test_the_model_is_as_before_when_training_stops() -> None:
    elastic = tiny_elastic()
    layers = elastic.elastic_layers()
    factors = {name: (layer.down, layer.up) for name, layer in layers.items()}
    values = {name: (down.clone(), up.clone()) for name, (down, up) in factors.items()}
    flags = [p.requires_grad for p in elastic.model.parameters()]
    plan = elastic.set_size(0.5)
    run = train_blocks(elastic, calibration(), SETTINGS)
    while "error" not in next(run).note:
        pass
    assert not torch.is_autocast_enabled("cpu") and elastic.cut.ranks == plan.states  # others use the model meanwhile
    run.close()
    assert [p.requires_grad for p in elastic.model.parameters()] == flags
    for name, layer in layers.items():
        assert (layer.down is factors[name][0]) and (layer.up is factors[name][1])
        assert torch.equal(layer.down, values[name][0]) and torch.equal(layer.up, values[name][1])


def part_elastic(exclude: tuple[str, ...]) -> ElasticModel:
    base = tiny_base()
    return finish(build_elastic(base, tiny_factors(base, exclude), random_scores(base, exclude=exclude)))


@pytest.mark.parametrize("block", [0, 1])
def test_a_block_without_target_layers_is_passed_through(block: int) -> None:
    elastic = part_elastic((f"layers.{block}",))
    before = divergence(elastic, 0.4)
    trained = finish(train_blocks(elastic, calibration(), replace(SETTINGS, steps=30)))
    assert trained.errors.shape == (1, 30, 2)
    assert all(f"layers.{1 - block}." in name for name in trained.factors)
    elastic.update_factors(updates_of(elastic.elastic_layers(), trained.factors))
    assert divergence(elastic, 0.4) < 0.9 * before


def test_where_all_of_a_block_is_dense_nothing_moves() -> None:
    elastic = tiny_elastic()
    trained = finish(train_blocks(elastic, calibration(), replace(SETTINGS, smallest=1.0, largest=1.0)))
    assert (trained.errors <= 1e-3).all()
    for name, layer in elastic.elastic_layers().items():
        torch.testing.assert_close(trained.factors[name], (layer.down, layer.up))


def test_little_text_is_read_again() -> None:
    trained = finish(train_blocks(tiny_elastic(), calibration()[:1], replace(SETTINGS, batch=4, steps=2)))
    assert trained.errors.isfinite().all()


def test_an_error_that_is_not_finite_names_block_and_step() -> None:
    elastic = tiny_elastic()
    next(layer for name, layer in elastic.elastic_layers().items() if "layers.1." in name).down.fill_(torch.nan)
    with pytest.raises(ModelError, match="error of block 2 is not finite at step 1; lower"):
        finish(train_blocks(elastic, calibration(), SETTINGS))


def test_blocks_that_hand_on_more_than_hidden_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of models that give every block something of the tokens themselves."""
    elastic = tiny_elastic()
    block = elastic.model.model.layers[1]
    plain = block.forward
    monkeypatch.setattr(block, "forward", lambda hidden, tokens, **given: plain(hidden, **given) + tokens[..., None])
    elastic.model.model.register_forward_pre_hook(
        lambda _, args, given: (args, given | {"tokens": given["input_ids"].float()}), with_kwargs=True
    )
    with pytest.raises(ModelError, match="cannot be run one after another"):
        finish(train_blocks(elastic, calibration(), SETTINGS))


def test_a_long_token_weighs_no_more_than_others() -> None:
    target = torch.randn(1, 4, 8)
    off = target * 1.1
    longer = torch.tensor([1000.0, 1.0, 1.0, 1.0])[:, None]
    torch.testing.assert_close(relative_error(off, target), torch.tensor([0.1]), rtol=1e-3, atol=0)
    torch.testing.assert_close(relative_error(off * longer, target * longer), relative_error(off, target))


def test_a_batch_that_cannot_be_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from acip_core.training import data_parallel

    class Three:
        num_processes, process_index = 3, 0

    monkeypatch.setattr(data_parallel, "PartialState", Three)
    for run in (
        train_blocks(tiny_elastic(), calibration(), SETTINGS),
        train_factors(tiny_elastic(), calibration(), FactorConfig(batch=2)),
    ):
        with pytest.raises(ModelError, match="batch of 2 windows cannot be split over 3 processes"):
            next(run)
