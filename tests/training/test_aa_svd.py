"""AA-SVD: the closed form is the best of its rank, refinement brings a block's output nearer, sizes are kept."""

from __future__ import annotations

import math

import pytest
import torch

from acip_core.errors import ModelError
from acip_core.evaluation.fidelity import full_logits, measure_fidelity
from acip_core.model.elastic_model import ElasticModel, build_elastic
from acip_core.progress import Progress, finish
from acip_core.scoring.baselines import uniform_scores
from acip_core.training.aa_svd import AaSvdConfig, aa_svd, anchored_factors
from tests.support.tiny import FAMILIES, calibration, generator, target_weights, tiny_base, tiny_factors

pytestmark = pytest.mark.usefixtures("exact")


def uniform(family: str = "llama") -> ElasticModel:
    base = tiny_base(family)
    factors = tiny_factors(base)
    shapes = {name: tuple(weight.shape) for name, weight in target_weights(base).items()}
    return finish(build_elastic(base, factors, uniform_scores(factors, shapes)))


def refined(elastic: ElasticModel, settings: AaSvdConfig, ratio: float = 0.6) -> list[Progress]:
    seen: list[Progress] = []
    finish(aa_svd(elastic, elastic.planner.at_ratio(ratio), calibration(), settings), seen.append)
    return seen


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
@pytest.mark.parametrize("rank", [0, 1, 4, 7])
def test_the_closed_form_is_the_best_of_its_rank(shape: tuple[int, int], rank: int):
    m, n = shape
    weight, full = torch.randn(m, n, generator=generator(1)), torch.randn(n, 200, generator=generator(2))
    cut = full + 0.5 * torch.randn(n, 200, generator=generator(3))
    down, up = anchored_factors(weight, cut.double() @ cut.double().T, full.double() @ cut.double().T, rank)
    assert down.shape == (rank, n) and up.shape == (rank, m)
    assert torch.allclose(down.norm(dim=1) > 0, torch.ones(rank, dtype=torch.bool))
    # W X projected onto the rows of X' is all that a product with X' can give; the best of a rank is its SVD's.
    reachable = weight.double() @ full.double() @ torch.linalg.pinv(cut.double()) @ cut.double()
    left, values, right = torch.linalg.svd(reachable, full_matrices=False)
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    assert torch.allclose((up.T @ down).double() @ cut.double(), best, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_comes_nearer_and_the_size_is_the_plans(family: str):
    elastic = uniform(family)
    plan = elastic.planner.at_ratio(0.6)
    errors: dict[str, list[float]] = {}
    for step in refined(elastic, AaSvdConfig(epochs=4, batch=3, learning_rate=2e-3)):
        block, error = step.note.split(": squared error ")
        errors.setdefault(block, []).append(float(error))
    assert len(errors) == 2 and all(len(found) == 5 and found[-1] < found[0] for found in errors.values())
    stored = sum(len(layer.down) * sum(layer.weight.shape) for layer in elastic.elastic_layers().values())
    assert stored == plan.target_parameters
    assert not any(parameter.requires_grad for parameter in elastic.model.parameters())


def test_refinement_and_anchoring_bring_the_model_nearer():
    base = tiny_base()
    teacher, _ = finish(full_logits(base.model, calibration(), "text"))

    def divergence(elastic: ElasticModel) -> float:
        with elastic.at(elastic.planner.at_ratio(0.6)):
            return finish(measure_fidelity(elastic.model, calibration(), teacher, "text")).divergence

    whitened, closed, trained = uniform(), uniform(), uniform()
    seen = refined(closed, AaSvdConfig(epochs=0))
    refined(trained, AaSvdConfig(epochs=40, batch=3, learning_rate=3e-3))
    assert [step.done for step in seen] == [1, 2] and seen[-1].total == 2
    assert divergence(trained) < divergence(closed) < divergence(whitened)


def test_a_full_size_plan_leaves_the_model_as_it_is():
    elastic = uniform()
    before = {name: value.clone() for name, value in elastic.model.state_dict().items()}
    refined(elastic, AaSvdConfig(epochs=2), 1.0)
    assert all(torch.equal(before[name], value) for name, value in elastic.model.state_dict().items())


def test_text_that_does_not_split_evenly_is_read_whole():
    elastic, read = uniform(), []
    elastic.model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    finish(aa_svd(elastic, elastic.planner.at_ratio(0.6), calibration()[:5], AaSvdConfig(epochs=0, batch=3)))
    assert torch.equal(torch.cat(read), calibration()[:5])


def test_one_huge_channel_and_few_tokens_can_be_cut():
    elastic = uniform()
    layer = elastic.elastic_layers()["model.layers.0.self_attn.q_proj"]
    elastic.model.model.layers[0].input_layernorm.weight.data[3] = 1e5  # as channels of trained models are
    finish(aa_svd(elastic, elastic.planner.at_ratio(0.6), calibration()[:1, :20], AaSvdConfig(epochs=0)))
    assert layer.down.isfinite().all() and layer.up.isfinite().all()


def test_what_is_not_finite_is_one_sentence():
    elastic = uniform()
    elastic.model.get_input_embeddings().weight.data[5] = math.inf
    with pytest.raises(ModelError, match=r"Cannot cut model.layers.0.self_attn.q_proj: what it reads is not finite"):
        refined(elastic, AaSvdConfig(epochs=1))
    with pytest.raises(ModelError, match="The output of block 0 is not finite; lower the learning rate"):
        refined(uniform(), AaSvdConfig(epochs=9, batch=3, learning_rate=1e30))
