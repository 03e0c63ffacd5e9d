"""The settings file takes everything that the command line takes, and the command line wins."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from infimed.cli.serve import serve
from infimed.core.errors import UsageError
from infimed.serving.settings import Start, read_settings


def test_every_option_has_a_setting_of_its_name_and_none_has_a_default_of_its_own():
    options = inspect.signature(serve).parameters
    assert set(options) - {"settings"} == set(Start.model_fields)
    assert all(option.default is None for option in options.values())


def test_options_of_a_file_are_taken_and_those_of_the_command_line_win(tmp_path: Path):
    file = tmp_path / "serve.yaml"
    file.write_text("serve: {run: model, port: 9, allow_host: [a.org], api_key_file: /etc/keys}\n")
    start = read_settings(file).serve.given(port=0, name=None, allow_host=("b.org",))
    assert start.run == str(tmp_path / "model")  # relative to the file
    assert start.api_key_file == "/etc/keys"
    assert (start.port, start.allow_host, start.host) == (0, ("b.org",), "127.0.0.1")


def test_a_run_and_a_backend_take_each_others_place():
    start = Start(run="a")
    assert start.given(backend="http://127.0.0.1:1/v1").run is None
    assert Start(backend="http://127.0.0.1:1/v1").given(run="a").backend is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give a run or --backend"),
        ({"run": "a", "backend": "http://127.0.0.1:1"}, "one of them"),
        ({"run": "a", "dtype": "fp23"}, "dtype"),
        ({"run": "a", "audit": "a"}, "go together"),
        ({"run": "a", "port": 70_000}, "port"),
    ],
)
def test_what_does_not_go_together_is_named(options, said):
    with pytest.raises(UsageError, match=said):
        Start().given(**options)


def test_a_mistake_in_the_file_is_named(tmp_path: Path):
    file = tmp_path / "serve.yaml"
    file.write_text("serve: {prot: 8000}\n")
    with pytest.raises(UsageError, match="did you mean: port"):
        read_settings(file)
