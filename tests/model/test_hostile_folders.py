"""A hostile folder is refused with the reason, by every command that opens weights, and nothing of it runs."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import tiny_preset
from tests.model import foreign
from typer.testing import CliRunner

from infimed.cli.main import app
from infimed.core.errors import DataError
from infimed.model import presets
from infimed.model.loading import find_checkpoint, load_checkpoint, save_checkpoint
from infimed.model.tensor_names import by_published_names
from infimed.model.weight_files import read_header, stored_tensors


class Payload:
    """What a pickle does when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    data = pickle.dumps({"weight": Payload(folder.parent / "marker")})
    (folder / "pytorch_model.bin").write_bytes(data)


def with_header(folder: Path, change) -> None:
    """model.safetensors with its header changed, its data as it was."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header = change(header) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def overlapping(folder: Path) -> None:
    def change(header):
        names = sorted(
            (n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"][0]
        )
        one, two = next(
            (a, b)
            for a in names
            for b in names
            if a != b and header[a]["shape"] == header[b]["shape"]
        )
        header[two]["data_offsets"] = header[one]["data_offsets"]

    with_header(folder, change)


def endless(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**63) + file.read_bytes()[8:])


def oversized(folder: Path) -> None:
    def change(header):
        next(entry for name, entry in header.items() if name != "__metadata__")["shape"] = [
            2**40,
            2**40,
        ]

    with_header(folder, change)


def quantised(folder: Path) -> None:
    def change(header):
        for name, entry in header.items():
            if name != "__metadata__":
                entry["dtype"] = "F8_E4M3"

    with_header(folder, change)


def doubled(folder: Path) -> None:
    def change(header):
        name = next(name for name in header if name != "__metadata__")
        extra = f"{json.dumps(name)}: {json.dumps(header[name])}, "
        return b"{" + extra.encode() + json.dumps(header).encode()[1:]

    with_header(folder, change)


def nested(folder: Path) -> None:
    with_header(folder, lambda header: b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])


def custom_code(name: str, value: object):
    def spoil(folder: Path) -> None:
        file = folder / name
        values = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**values, **value}))  # type: ignore[dict-item]

    return spoil


def sharded(place: str):
    """The weights named by an index, at `place`."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        names = load_file(folder.parent / "outside.safetensors")
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": dict.fromkeys(names, place)})
        )

    return spoil


def linked(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "outside.safetensors")


def misshapen(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith("mlp.fc1.weight"))
    save_file({**tensors, name: torch.ones(2, 2)}, file)


CODE = {"auto_map": {"AutoModel": "evil.Model"}}
HOSTILE = {
    "a pickle with a payload": (pickled, "pickled|no complete"),
    "overlapping tensors": (overlapping, "overlaps another|leaves a gap"),
    "a header of 2^63 bytes": (endless, "longer than the file"),
    "a tensor of 2^80 numbers": (oversized, "other bytes than its shape"),
    "a type that is not read": (quantised, "F8_E4M3"),
    "a name twice in the header": (doubled, "appears twice"),
    "a header nested 100,000 deep": (nested, "valid safetensors"),
    "a truncated file": (truncated, "cut off"),
    "custom code": (custom_code("config.json", CODE), "custom code"),
    "custom code of a part": (custom_code("config.json", {"vision_config": CODE}), "custom code"),
    "custom code of the tokenizer": (custom_code("tokenizer_config.json", CODE), "custom code"),
    "custom code of the processor": (custom_code("processor_config.json", CODE), "custom code"),
    "a shard outside": (sharded("../outside.safetensors"), "out of its folder"),
    "a shard by an absolute path": (sharded("/etc/model.safetensors"), "out of its folder"),
    "a shard that is a pickle": (sharded("pytorch_model.bin"), "not safetensors"),
    "a shard that is missing": (sharded("model-00001-of-00001.safetensors"), "file not found"),
    "a link to outside": (linked, "leads out of its folder"),
    "wrong shapes": (misshapen, "wrong shape"),
}


@pytest.fixture
def bases(tmp_path, monkeypatch):
    """A folder `vision` and a folder `language` that serve as those of a Hub preset."""
    model = foreign.stock()
    vision, language = foreign.base_folders(tmp_path, model)
    vision.rename(tmp_path / "vision")
    language.rename(tmp_path / "language")
    text = {**foreign.TEXT, "model_type": "qwen2"}
    tower = {**foreign.VISION, "model_type": "siglip_vision_model"}
    tiny = replace(tiny_preset(), name="infimed-1.7b", vision=tower, text=text)
    monkeypatch.setitem(presets.PRESETS, "infimed-1.7b", tiny)
    return tmp_path


def refused(*arguments: object) -> str:
    """What the command says; it must fail with a message."""
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert isinstance(done.exception, DataError), (done.exception, done.output)
    return str(done.exception)


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=list(HOSTILE))
def test_weights_refuses_and_runs_nothing(bases, spoil):
    spoil[0](bases / "vision")
    said = refused("weights", "infimed-1.7b", "--from", bases)
    assert any(reason in said for reason in spoil[1].split("|")), said
    assert not (bases / "marker").exists()


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=list(HOSTILE))
def test_import_refuses_and_runs_nothing(tmp_path, spoil):
    model = foreign.stock()
    folder = foreign.write(tmp_path / "theirs", foreign.llava_hub(model), model.config.to_dict())
    spoil[0](folder)
    said = refused("import", folder, "--out", tmp_path / "ours")
    assert any(reason in said for reason in spoil[1].split("|")), said
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=list(HOSTILE))
def test_chat_refuses_and_runs_nothing(tmp_path, make_model, processor, spoil):
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, make_model(), processor, about={})
    spoil[0](folder)
    said = refused("chat", folder, "--question", "Which kind of image is this?")
    assert any(reason in said for reason in spoil[1].split("|")), said
    assert not (tmp_path / "marker").exists()


def test_a_payload_does_not_run_even_where_pickles_are_allowed(bases):
    pickled(bases / "vision")
    allow = ("--allow-pickle", "--cache", bases / "cache")
    said = refused("weights", "infimed-1.7b", "--from", bases, *allow)
    assert "nothing of it was run" in said
    assert not (bases / "marker").exists()
    assert not (bases / "cache" / "weights" / "infimed-1.7b").exists()


def test_plain_pickles_are_refused_by_default_and_converted_on_request(bases, monkeypatch):
    from infimed.model.weights import ensure_weights

    file = bases / "language" / "model.safetensors"
    tensors = load_file(file)
    torch.save(tensors, bases / "language" / "pytorch_model.bin")
    file.unlink()
    assert "pickled" in refused("weights", "infimed-1.7b", "--from", bases)
    cache = bases / "cache"
    command = ["weights", "infimed-1.7b", "--from", bases, "--allow-pickle", "--cache", cache]
    done = CliRunner().invoke(app, [str(one) for one in command])
    assert done.exit_code == 0, done.output
    found = ensure_weights("infimed-1.7b", cache=cache, offline=True)
    assert not list(cache.rglob("*.bin"))
    again = load_file(found.language / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_a_link_into_the_blobs_of_the_hubs_cache_is_followed(bases):
    home = bases / "models--somebody--model"
    snapshot = home / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(bases / "vision", snapshot)
    (home / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(home / "blobs" / "aa")
    (snapshot / "model.safetensors").symlink_to("../../blobs/aa")
    assert stored_tensors(snapshot)
    (home / "blobs" / "aa").rename(home / "aa")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../aa")
    with pytest.raises(DataError, match="leads out"):
        stored_tensors(snapshot)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    for shard in ("a.safetensors", "b.safetensors"):
        save_file({"x": torch.ones(2)}, tmp_path / shard)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="lies in two shards"):
        stored_tensors(tmp_path)


def test_shards_without_their_index_are_refused(tmp_path):
    for shard in ("a.safetensors", "b.safetensors"):
        save_file({"x": torch.ones(2)}, tmp_path / shard)
    with pytest.raises(DataError, match=r"no model\.safetensors\.index\.json"):
        stored_tensors(tmp_path)


def test_a_tensor_under_an_old_and_a_new_name_is_refused(tmp_path):
    names = ("attention.q_proj.weight", "attention.attention.query.weight")
    tensors = {f"encoder.layer.0.{name}": torch.ones(2) for name in names}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="under two names"):
        by_published_names(stored_tensors(tmp_path))


def test_a_configuration_cannot_choose_a_kernel(tmp_path, make_model, processor):
    save_checkpoint(tmp_path / "c", make_model(), processor, about={})
    file = tmp_path / "c" / "config.json"
    values = json.loads(file.read_text())
    values["_attn_implementation"] = "somebody/kernel"
    values["text_config"]["attn_implementation"] = "somebody/kernel"
    file.write_text(json.dumps(values))
    model, _ = load_checkpoint(tmp_path / "c")
    assert model.model.language_model.config._attn_implementation == "sdpa"
    assert "somebody" not in json.dumps(model.config.to_dict())


def test_a_stock_model_given_to_chat_is_sent_to_import(tmp_path):
    model = foreign.stock()
    folder = foreign.write(tmp_path / "theirs", foreign.llava_hub(model), model.config.to_dict())
    with pytest.raises(DataError, match="infimed import"):
        find_checkpoint(folder)


def test_every_type_in_the_list_has_its_size_in_bytes(tmp_path):
    types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32]
    tensors = {str(t): torch.zeros(3, dtype=t) for t in (*types, torch.uint8, torch.bool)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert {
        name: e.shape for name, e in read_header(tmp_path / "x.safetensors").items()
    } == dict.fromkeys(tensors, (3,))
