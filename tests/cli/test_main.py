"""The command line: messages instead of tracebacks, and exit codes a script can rely on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from infimed.core.recipe import recipe_names


def infimed(*arguments, cwd=None):
    command = [sys.executable, "-m", "infimed.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nanno"], 3, "did you mean: nano"),
        (["run", "nano", "train.sead=3"], 3, "did you mean: seed"),
        (["run", "nano", "data.root=missing"], 4, "no such file or folder"),
        (["validate", "mini", "data.root=missing"], 4, "no such file or folder"),
        (["run"], 2, "recipe"),
        (["rum"], 2, "rum"),
        (["data", "import", "missing", "--out", "o"], 4, "missing"),
        (["curate", "run", "missing", "--out", "o"], 4, "missing"),
        (["chat", "missing", "--question", "?"], 4, "missing"),
        (["import", "missing", "--out", "o"], 4, "missing"),
        (["weights", "mino"], 4, "did you mean: mini"),
    ],
)
def test_mistake_is_a_message_with_its_exit_code(tmp_path, arguments, code, message):
    done = infimed(*arguments, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr.replace("\n", " ")


def test_a_mistake_leaves_nothing_behind(tmp_path):
    infimed("run", "nano", "data.root=missing", cwd=tmp_path)
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix in (".partial", ".tar")]
    assert left == []


@pytest.mark.parametrize(
    "command",
    [[], ["run"], ["data"], ["curate"], ["eval"], ["chat"], ["weights"], ["import"], ["serve"]],
)
def test_help_teaches_without_loading_torch(command):
    code = (
        "import sys; from infimed.cli.main import main; code = 0; sys.argv[1:] = "
        f"{[*command, '--help']!r}\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    code = stop.code\n"
        "sys.exit(9 if 'torch' in sys.modules else (code or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_environment_is_json():
    import json

    assert json.loads(infimed("env").stdout)["infimed"]


def test_all_sizes_ship_a_recipe():
    assert recipe_names() == ["infimed-1.7b", "infimed-4b", "mini", "nano", "nano-captions"]
