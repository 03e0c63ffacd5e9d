"""8-bit AdamW against torch's in fp32."""

from __future__ import annotations

import pytest
import torch

from infimed.training.adam8bit import (
    BLOCK,
    SMALL,
    AdamW8bit,
    dynamic_map,
    quantise,
    restore,
)


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_has_256_ascending_values_up_to_1(signed):
    values = dynamic_map(signed)
    assert len(values) == 256
    assert bool((values[1:] > values[:-1]).all())
    assert values[-1] == 1
    assert (values[0] < 0) == signed
    assert (0 in values) == signed


@pytest.mark.parametrize("signed", [True, False])
def test_quantising_is_closest_in_the_map_and_values_of_the_map_survive(signed):
    torch.manual_seed(0)
    values = torch.randn(3 * BLOCK + 17) * torch.logspace(-3, 3, 3 * BLOCK + 17)
    values = values if signed else values.abs()
    codes, largest = quantise(values, signed)
    assert codes.shape == values.shape
    assert len(largest) == 4
    back = restore(codes, largest, signed)
    every = dynamic_map(signed) * largest.repeat_interleave(BLOCK)[: len(values), None]
    nearest = (every - values[:, None]).abs().amin(1)
    torch.testing.assert_close((back - values).abs(), nearest)
    again, _ = quantise(back, signed)
    assert torch.equal(again, codes)


def test_a_block_of_zeros_comes_back_as_zeros():
    codes, largest = quantise(torch.zeros(BLOCK), signed=False)
    assert torch.equal(restore(codes, largest, signed=False), torch.zeros(BLOCK))


def train(optimizer_of, steps=50):
    """Losses of a two-layer regression, and the first layer's weights at its end."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 64))
    teacher = torch.randn(64, 64) / 8
    optimizer = optimizer_of(model.parameters())
    losses = []
    for _ in range(steps):
        x = torch.randn(256, 64)
        loss = (model(x) - x @ teacher).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, model[0].weight.detach()


def test_fifty_steps_follow_adamw_in_fp32_within_a_hundredth_of_the_loss():
    def ours(parameters):
        return AdamW8bit(
            [{"params": list(parameters), "lr": 3e-3, "weight_decay": 0.1}], betas=(0.9, 0.98)
        )

    exact, weight = train(
        lambda p: torch.optim.AdamW(p, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.1)
    )
    losses, weight8 = train(ours)
    assert exact[-1] < 0.6 * exact[0]
    assert losses == pytest.approx(exact, rel=0.01)
    moved = (weight8 - weight).norm() / weight.norm()
    assert moved < 0.02


def test_small_tensors_are_exactly_adamw():
    torch.manual_seed(0)
    start = torch.randn(SMALL - 1)
    mine, stock = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    ours = AdamW8bit([{"params": [mine], "lr": 0.01, "weight_decay": 0.1}], betas=(0.9, 0.98))
    theirs = torch.optim.AdamW([stock], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    for _ in range(5):
        mine.grad = torch.randn_like(start)
        stock.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(mine, stock, rtol=1e-5, atol=1e-6)


def test_a_parameter_takes_about_two_bytes_of_state():
    weight = torch.nn.Parameter(torch.randn(256, 300))
    weight.grad = torch.randn_like(weight)
    optimizer = AdamW8bit([weight], betas=(0.9, 0.98))
    optimizer.step()
    held = sum(t.numel() * t.element_size() for t in optimizer.state[weight].values())
    assert held / weight.numel() == pytest.approx(2 + 8 / BLOCK, rel=0.01)
