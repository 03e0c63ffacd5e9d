"""The fast normalisation against the stock one, forward and backward, and where it is used."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from infimed.model.norm import FastLlamaRMSNorm, FastQwen3RMSNorm, RootMeanSquare, use_fast_norms

PAIRS = [(Qwen3RMSNorm, FastQwen3RMSNorm), (LlamaRMSNorm, FastLlamaRMSNorm)]


def run(module, x, gradient):
    """(output, gradient of x, gradient of the weight)."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    out = module(x)
    out.backward(gradient.to(out.dtype))
    return out.detach(), x.grad, module.weight.grad.clone()


@pytest.mark.parametrize(("stock", "fast"), PAIRS)
@pytest.mark.parametrize("shape", [(1, 37, 160), (1, 37, 5, 32), (3, 8), (1, 1, 576)])
def test_equals_the_stock_one_in_fp32(stock, fast, shape) -> None:
    torch.manual_seed(0)
    one = stock(shape[-1])
    torch.nn.init.normal_(one.weight)
    holder = torch.nn.Sequential(copy.deepcopy(one))
    use_fast_norms(holder)
    assert type(holder[0]) is fast and holder.state_dict().keys() == {"0.weight"}
    x, gradient = torch.randn(shape) * 3, torch.randn(shape)
    for a, b in zip(run(one, x, gradient), run(holder[0], x, gradient), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)
    with torch.no_grad():
        assert torch.equal(one(x), holder[0](x))


def test_gradient_is_the_derivative() -> None:
    torch.manual_seed(1)

    class Double(torch.nn.Module):
        def forward(self, x, weight):
            return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    w = torch.randn(7, dtype=torch.float64, requires_grad=True)
    g = torch.randn(5, 7, dtype=torch.float64)
    Double()(x, w).backward(g)
    a, b = x.detach().float().requires_grad_(), w.detach().float().requires_grad_()
    RootMeanSquare.apply(a, b, 1e-6, torch.float32).backward(g.float())
    torch.testing.assert_close(a.grad.double(), x.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(b.grad.double(), w.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [torch.float32, torch.bfloat16])
def test_types_are_those_of_the_stock_one(weight) -> None:
    torch.manual_seed(2)
    one = Qwen3RMSNorm(32).to(weight)
    holder = torch.nn.Sequential(copy.deepcopy(one))
    use_fast_norms(holder)
    x, gradient = torch.randn(9, 32).bfloat16(), torch.randn(9, 32)
    for a, b in zip(run(one, x, gradient), run(holder[0], x, gradient), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=4e-2)


def test_under_autocast_a_linear_layer_gets_the_same_bits(make_model) -> None:
    """Rounding once what three linear layers read changes nothing they compute."""
    torch.manual_seed(3)
    model = make_model()
    layer = model.model.language_model.layers[0]
    one = Qwen3RMSNorm(32)
    one.weight.data.copy_(layer.input_layernorm.weight.data.normal_())
    x, linear = torch.randn(1, 9, 32), torch.nn.Linear(32, 48)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer.input_layernorm(x)
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(linear(rounded), linear(one(x)))
        assert layer.self_attn.q_norm(x.view(1, 9, 4, 8)).dtype == torch.float32


def test_the_model_trains_with_it_and_its_tensors_keep_their_names(make_model) -> None:
    model = make_model()
    norms = [m for m in model.modules() if isinstance(m, FastQwen3RMSNorm)]
    assert (
        len(norms) == 2 * 4 + 1
    )  # two layers: before attention, before the MLP, query, key; the end
    assert not any(type(m) is Qwen3RMSNorm for m in model.modules())
    assert "model.language_model.layers.0.self_attn.q_norm.weight" in model.state_dict()
