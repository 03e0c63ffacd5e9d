"""`train.precision: auto` is decided once, by the machine that trains first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from infimed.core.errors import RecipeError
from infimed.core.recipe import Recipe, load_recipe
from infimed.core.run import RunFolder
from infimed.pipeline.precision import on_hardware, settled
from infimed.pipeline.training import _adopted
from infimed.training import device
from infimed.training.device import autocast, fastest_precision, measure_peak
from infimed.training.hardware import hardware

CPU = torch.device("cpu")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that is faster in fp32."""
    monkeypatch.setattr(device, "fastest_precision", lambda _: "fp32")
    return monkeypatch


def stored(run: RunFolder) -> str:
    return yaml.safe_load((run / "recipe.yaml").read_text())["train"]["precision"]


def auto(*more: str) -> Recipe:
    return load_recipe("nano", ["train.precision=auto", *more])


def test_a_named_precision_is_never_changed(here: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("nano", ["train.precision=bf16"])
    assert settled(recipe) is recipe


def test_a_run_keeps_the_precision_it_began_with(tmp_path: Path, here: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    assert run.adopt(settled(auto(), run)) is False
    assert stored(run) == "fp32"
    here.setattr(device, "fastest_precision", lambda _: "bf16")
    again = settled(auto(), run)
    assert again.train.precision == "fp32"
    assert run.adopt(again) is True


def test_packing_leaves_the_choice_to_the_machine_that_trains(
    tmp_path: Path, here: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    run.adopt(auto())
    assert stored(run) == "auto"
    assert run.adopt(settled(auto(), run)) is True
    assert stored(run) == "fp32"
    assert run.adopt(auto()) is True, "packing again agrees with what was decided"
    assert stored(run) == "fp32"


def test_another_named_precision_is_refused(tmp_path: Path, here: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    run.adopt(settled(auto(), run))
    with pytest.raises(RecipeError, match="precision"):
        run.adopt(load_recipe("nano", ["train.precision=bf16"]))


def test_a_tower_in_bf16_needs_products_in_bf16(here: pytest.MonkeyPatch) -> None:
    assert settled(auto("train.frozen_dtype=bf16")).train.precision == "bf16"


def test_the_choice_is_the_faster_product(monkeypatch: pytest.MonkeyPatch) -> None:
    for slow, chosen in ((torch.bfloat16, "fp32"), (torch.float32, "bf16")):
        device._bf16_is_faster.cache_clear()
        monkeypatch.setattr(device, "_seconds", lambda a, b, slow=slow: float(a.dtype == slow))
        assert fastest_precision(CPU) == chosen
    device._bf16_is_faster.cache_clear()


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "fp32"), ((8, 0), "bf16")])
def test_a_gpu_without_units_for_bf16_trains_in_fp32(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert fastest_precision(torch.device("cuda")) == chosen


def test_every_rank_trains_in_what_the_first_one_decided(
    tmp_path: Path, here: pytest.MonkeyPatch
) -> None:
    """The second rank would measure another precision; it must not use its own."""
    run = RunFolder(tmp_path)
    here.setattr(device, "fastest_precision", lambda _: "bf16")

    class Second:
        main, device = False, CPU

        def together(self, work: Callable[[], Any]) -> Any:
            done = work()
            if not (tmp_path / "recipe.yaml").exists():  # meanwhile, on the first rank
                own = auto()
                train = own.train.model_copy(update={"precision": "fp32"})
                run.adopt(own.model_copy(update={"train": train}))
            return done

    assert _adopted(auto(), run, Second()).train.precision == "fp32"


def test_an_emulated_precision_is_measured_on_small_products_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """0.3 GFLOP/s: the largest product alone would take a minute."""
    seen = []

    def slow(left: torch.Tensor, right: torch.Tensor) -> float:
        work = 2.0 * left.shape[0] * left.shape[1] * right.shape[1]
        seen.append(work)
        return work / 3e8

    monkeypatch.setattr(device, "_seconds", slow)
    monkeypatch.setattr(device, "PEAK_SECONDS", 0.001)
    assert measure_peak(CPU, "bf16") == pytest.approx(3e8)
    assert set(seen) == {2.0 * 512**3}


def test_an_undecided_precision_trains_nothing() -> None:
    with pytest.raises(ValueError, match="auto"):
        autocast(CPU, "auto")


def test_an_estimate_for_a_gpu_needs_no_gpu(here: pytest.MonkeyPatch) -> None:
    found = on_hardware(auto(), hardware("h100x8", "auto"))
    assert found.train.precision == "bf16"
    assert on_hardware(auto("train.precision=fp32"), hardware("h100x8")).train.precision == "fp32"
