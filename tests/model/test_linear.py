"""Fast linear layers give what stock ones give under autocast."""

from __future__ import annotations

import copy

import pytest
import torch

from infimed.model import linear as linear_module
from infimed.model.linear import FastLinear, RoundedLinear, transposed, use_fast_linears


@pytest.mark.parametrize("cached", [0, 10**9])
def test_transposing_in_strips_is_transposing(cached, monkeypatch):
    monkeypatch.setattr(linear_module, "CACHED", cached)
    matrix = torch.randn(2 * linear_module.STRIP + 7, 33)
    assert torch.equal(transposed(matrix), matrix.t())
    assert transposed(matrix).is_contiguous()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 96), (96, 48)])
def test_result_and_gradients_are_those_of_autocast(inputs, outputs, bias):
    torch.manual_seed(0)
    stock = torch.nn.Linear(inputs, outputs, bias=bias)
    fast = copy.deepcopy(stock)
    use_fast_linears(fast)
    assert isinstance(fast, FastLinear)
    x = torch.randn(2, 70, inputs)
    found = []
    for layer in (stock, fast):
        mine = x.clone().requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16):
            made = layer(mine)
        made.backward(torch.ones_like(made) * 0.1)
        found.append([made, mine.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-7)


def test_without_autocast_the_stock_code_runs(monkeypatch):
    monkeypatch.setattr(RoundedLinear, "apply", None)
    layer = FastLinear(4, 4)
    torch.testing.assert_close(layer(torch.eye(4)), layer.weight.t() + layer.bias)
