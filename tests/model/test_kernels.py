"""The fast linear map: equal to PyTorch's own, for every shape and layout that models hand it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from acip_core.model.kernels import (
    Linear,
    linear,
    pair,
    token_product,
    use_fast_linears,
)

SHAPES = [(), (1,), (1, 1), (2,), (5, 1), (4, 8), (33,), (2, 40), (0, 3)]
LAYOUTS = {
    "rows": lambda w: w[:96],
    "transposed rows": lambda w: w.t().contiguous()[:, :96].t(),
    "prefix of a bank": lambda w: w.t().contiguous()[:200].t()[:, :200],
    "other strides": lambda w: w[:, ::2],
    "no rows": lambda w: w[:0],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("biased", [False, True])
def test_equal_to_pytorch(shape, layout, biased):
    weight = LAYOUTS[layout](torch.randn(700, 600))
    bias = torch.randn(len(weight)) if biased else None
    x = torch.randn(*shape, weight.shape[1])
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("biased", [False, True])
@torch.inference_mode()
def test_a_product_that_was_chosen_beforehand(layout, biased):
    weight = LAYOUTS[layout](torch.randn(700, 600))
    bias = torch.randn(len(weight)) if biased else None
    x = torch.randn(1, weight.shape[1])
    product, expected = token_product(weight, bias), F.linear(x, weight, bias)
    for both in (None, pair(x)):
        torch.testing.assert_close(product(x, both), expected, rtol=1e-4, atol=1e-4)


def test_inputs_of_any_layout():
    weight, x = torch.randn(700, 600), torch.randn(3, 600, 40).transpose(1, 2)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-4, atol=1e-4)


def test_few_rows_of_a_longer_input():
    weight, x = torch.randn(700, 600), torch.randn(5, 40, 600)[:, -1:]
    y = linear(x, weight)
    torch.testing.assert_close(y, F.linear(x, weight), rtol=1e-4, atol=1e-4)
    assert y.is_contiguous()


@pytest.mark.parametrize("wanted", ["x", "weight", "bias"])
def test_gradients(wanted):
    tensors = {"x": torch.randn(8, 600), "weight": torch.randn(700, 600), "bias": torch.randn(700)}
    tensors[wanted].requires_grad_()
    linear(**tensors).sum().backward()
    (expected,) = torch.autograd.grad(F.linear(tensors["x"], tensors["weight"], tensors["bias"]).sum(), tensors[wanted])
    torch.testing.assert_close(tensors[wanted].grad, expected)


def test_mixed_precision_stays_in_force():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(8, 600), torch.randn(700, 600)).dtype == torch.bfloat16


def test_other_precisions():
    x, weight = torch.randn(8, 600, dtype=torch.float64), torch.randn(700, 600, dtype=torch.float64)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_a_model_keeps_its_parameters():
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(600, 700), Own(700, 3))
    before, x = dict(model.named_parameters()), torch.randn(8, 600)
    expected = model(x)
    use_fast_linears(model)
    assert type(model[0]) is Linear and type(model[1]) is Own
    assert all(value is before[name] for name, value in model.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
