"""Adafactor against its formulas; it learns what AdamW learns; sharded equals whole."""

from __future__ import annotations

import pytest
import torch

from infimed.training.adafactor import Adafactor


def by_the_paper(weight, gradients, *, lr, decay, weight_decay):
    """Algorithms 4 and 5 with an absolute learning rate, one obvious line each, in fp64."""
    weight = weight.double()
    row = column = square = 0.0
    for step, gradient in enumerate(gradients, 1):
        g = gradient.double()
        keep = 1 - step**-decay
        if g.ndim == 2:
            row = keep * row + (1 - keep) * (g**2 + 1e-16).mean(1)
            column = keep * column + (1 - keep) * (g**2 + 1e-16).mean(0)
            square_of = torch.outer(row, column) / row.mean()
        else:
            square = keep * square + (1 - keep) * (g**2 + 1e-16)
            square_of = square
        update = g / square_of.sqrt()
        update /= max(1.0, float(update.square().mean().sqrt()))
        weight = weight - lr * weight_decay * weight - lr * update
    return weight


@pytest.mark.parametrize("shape", [(7, 12), (9,)])
def test_steps_equal_the_formulas_of_the_paper(shape):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(shape))
    gradients = [torch.randn(shape) * scale for scale in (1.0, 0.1, 30.0, 1e-4)]
    wanted = by_the_paper(weight.detach(), gradients, lr=0.1, decay=0.8, weight_decay=0.3)
    optimizer = Adafactor([{"params": [weight], "lr": 0.1, "weight_decay": 0.3}])
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(weight.detach().double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_mere_rounding_moves_nothing():
    weight = torch.nn.Parameter(torch.ones(32))
    weight.grad = torch.randn(32) * 1e-11
    Adafactor([{"params": [weight], "lr": 1e-3}]).step()
    assert (weight.detach() - 1).abs().max() < 1e-5


def test_state_of_a_matrix_is_its_rows_and_columns():
    weight = torch.nn.Parameter(torch.randn(64, 3, 5, 5))
    weight.grad = torch.randn_like(weight)
    optimizer = Adafactor([weight])
    optimizer.step()
    held = sum(tensor.numel() for tensor in optimizer.state[weight].values())
    assert held == 64 + 75 + 1


def test_rows_without_any_gradient_keep_their_values():
    weight = torch.nn.Parameter(torch.randn(4, 6))
    before = weight.detach().clone()
    optimizer = Adafactor([{"params": [weight], "lr": 0.1}])
    weight.grad = torch.randn(4, 6)
    weight.grad[2] = 0
    optimizer.step()
    assert torch.equal(weight.detach()[2], before[2])
    assert not torch.equal(weight.detach()[1], before[1])


def test_parameters_in_bf16_move_as_those_in_fp32_to_their_rounding():
    torch.manual_seed(0)
    start, gradient = torch.randn(32, 32).bfloat16(), torch.randn(32, 32).bfloat16()
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(start.to(dtype))
        weight.grad = gradient.to(dtype)
        Adafactor([{"params": [weight], "lr": 0.1}]).step()
        moved.append(weight.detach().float())
    torch.testing.assert_close(moved[0], moved[1], rtol=2**-7, atol=2**-7)
