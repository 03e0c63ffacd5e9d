"""What `deploy/` starts is as strict as it says; its settings are settings of the server."""

from __future__ import annotations

import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from infimed.cli.main import app
from infimed.core.errors import UsageError
from infimed.serving.settings import read_settings
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"


def unit() -> RawConfigParser:
    read = RawConfigParser(strict=False)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    read.read(DEPLOY / "infimed.service")
    return read


@pytest.mark.parametrize("name", ["serve.yaml", "container.yaml"])
def test_settings_are_accepted(name):
    made = read_settings(DEPLOY / name)
    assert made.serve.given().run == "/srv/infimed/model"


def test_the_container_listens_to_its_network_only_with_a_key():
    start = read_settings(DEPLOY / "container.yaml").serve.given()
    assert start.host == "0.0.0.0" and start.api_key_file and start.audit and start.audit_key_file


def test_the_unit_names_options_that_there_are():
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    command = unit()["Service"]["ExecStart"]
    options = re.findall(r"--[a-z-]+", command)
    assert options and all(option in shown for option in options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DynamicUser", "yes"), ("ProtectSystem", "strict"), ("NoNewPrivileges", "yes"), ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"), ("CapabilityBoundingSet", ""), ("IPAddressDeny", "any"), ("IPAddressAllow", "localhost"),
        ("MemorySwapMax", "0"), ("LimitCORE", "0"), ("UMask", "0077"),
    ],
)  # fmt: skip
def test_the_unit_is_strict(name, value):
    assert unit()["Service"][name] == value


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path):
    """The program is not installed here, so a copy names one that is."""
    text = (DEPLOY / "infimed.service").read_text()
    made = tmp_path / "infimed.service"
    made.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(made)], capture_output=True, text=True, timeout=60)  # fmt: skip
    if "Failed to" in done.stderr and "infimed" not in done.stderr:
        pytest.skip(f"systemd-analyze does not work here: {done.stderr[:100]}")
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_only_the_proxy_can_be_reached():
    services = compose()["services"]
    assert "ports" not in services["model"] and services["model"]["networks"] == ["inside"]
    assert compose()["networks"]["inside"] == {"internal": True}
    assert services["proxy"]["ports"] == ["443:443"]


def test_the_container_writes_nothing_but_the_audit_file():
    model = compose()["services"]["model"]
    assert model["read_only"] is True and model["cap_drop"] == ["ALL"]
    assert model["user"] == "10001:10001"
    assert "no-new-privileges:true" in model["security_opt"]
    writable = [volume for volume in model["volumes"] if not volume.endswith(":ro")]
    assert writable == ["./audit:/var/lib/infimed"]


def test_the_image_is_nobodys_and_holds_no_secret():
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    assert any(line.startswith("USER 10001") for line in lines)
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    copied = [line for line in lines if line.startswith(("COPY", "ADD"))]
    assert copied and not any(re.search(r"key|secret|deploy|\.env|COPY \. ", line) for line in copied)  # fmt: skip
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored and "!deploy" not in ignored


def test_a_setting_that_is_none_is_still_refused(tmp_path: Path):
    text = (DEPLOY / "container.yaml").read_text().replace("audit:", "audti:")
    (tmp_path / "container.yaml").write_text(text)
    with pytest.raises(UsageError, match="audit"):
        read_settings(tmp_path / "container.yaml")
