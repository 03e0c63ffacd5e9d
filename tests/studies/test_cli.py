"""The command line of the studies."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from infimed.cli.study import app
from infimed.core.errors import DataError, UsageError
from infimed.studies.definition import study_names


def test_list_names_every_study_with_its_question():
    shown = CliRunner().invoke(app, ["list"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in study_names())


def test_a_dry_run_tells_cells_and_writes_nothing(tmp_path):
    out = tmp_path / "studies"
    shown = CliRunner().invoke(app, ["all", "--dry-run", "--out", str(out)])
    assert shown.exit_code == 0 and "planted" in shown.output and "min of one core" in shown.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["run", "filtre"], UsageError, "did you mean: filter"),
        (["run", "packing", "--preset", "mini"], UsageError, "no such preset of this study"),
        (["run", "packing", "--budget", "soon"], UsageError, "not a length of time"),
        (["report"], DataError, "no study ran here"),
    ],
)
def test_a_mistake_is_an_error_that_helps(tmp_path, arguments, error, message):
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "o")])
    assert isinstance(done.exception, error)
    assert message in str(done.exception)
