"""Adapters on disk and into weights: a round trip, and what does not fit is named."""

from __future__ import annotations

import pytest
import torch

from infimed.core.errors import DataError
from infimed.model.adapters import (
    ADAPTERS,
    Adapters,
    read_adapters,
    split_adapters,
    write_adapters,
)

DOWN, UP = torch.randn(2, 6), torch.randn(4, 2)


@pytest.fixture
def adapters():
    return Adapters({"layer.lora_A.weight": DOWN, "layer.lora_B.weight": UP}, scale=1 / 3)


def test_round_trip_keeps_every_bit(adapters, tmp_path):
    write_adapters(tmp_path, adapters)
    again = read_adapters(tmp_path)
    assert again is not None and again.scale == adapters.scale
    assert again.tensors.keys() == adapters.tensors.keys()
    assert all(torch.equal(again.tensors[name], adapters.tensors[name]) for name in again.tensors)


def test_checkpoint_without_adapters_has_none(tmp_path):
    assert read_adapters(tmp_path) is None


def test_damaged_file_is_named(adapters, tmp_path):
    write_adapters(tmp_path, adapters)
    file = tmp_path / ADAPTERS
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a valid safetensors file"):
        read_adapters(tmp_path)


def test_names_of_peft_are_taken_apart(adapters):
    base, found = split_adapters(
        {
            "layer.base_layer.weight": torch.zeros(4, 6),
            "layer.lora_A.default.weight": DOWN,
            "layer.lora_B.default.weight": UP,
            "norm.weight": torch.ones(6),
        },
        scale=1 / 3,
    )
    assert base.keys() == {"layer.weight", "norm.weight"}
    assert found.tensors.keys() == adapters.tensors.keys()
    merged = found.merged_into(base)
    torch.testing.assert_close(merged["layer.weight"], UP @ DOWN / 3)
    assert merged["norm.weight"] is base["norm.weight"]


@pytest.mark.parametrize(
    "weights", [{}, {"layer.weight": torch.zeros(4, 5)}, {"other.weight": torch.zeros(4, 6)}]
)
def test_adapter_that_fits_no_weight_is_refused(adapters, weights):
    with pytest.raises(DataError, match="fits no weight"):
        adapters.merged_into(weights)
