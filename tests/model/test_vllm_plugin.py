"""vLLM finds the plugin by its entry point, and without vLLM nothing happens."""

from __future__ import annotations

import importlib
import sys
import tomllib
import types

from tests.conftest import REPOSITORY

from infimed.model import vllm_plugin


def test_entry_point_names_the_function():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["vllm.general_plugins"]["infimed"].split(":")
    assert getattr(importlib.import_module(module), name) is vllm_plugin.register


def test_without_vllm_registering_does_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    before = set(sys.modules)
    vllm_plugin.register()
    assert not {name for name in set(sys.modules) - before if name.startswith("infimed")}


def test_architecture_of_pooled_exports_is_registered_once_and_lazily(monkeypatch):
    known: dict[str, str] = {}
    fake = types.ModuleType("vllm")
    fake.ModelRegistry = types.SimpleNamespace(  # type: ignore[attr-defined]
        get_supported_archs=known.keys, register_model=known.__setitem__
    )
    monkeypatch.setitem(sys.modules, "vllm", fake)
    vllm_plugin.register()
    vllm_plugin.register()
    assert known == {"InfiMedForConditionalGeneration": "infimed.model.vllm_pooled:PooledLlava"}
    assert "infimed.model.vllm_pooled" not in sys.modules
