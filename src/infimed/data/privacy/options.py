"""What an import does for privacy beyond the header rules, which always hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infimed.core.files import sha256_json
from infimed.data.imaging import LIMITS, Limits
from infimed.data.privacy.masking import TextMasker, default_masker
from infimed.data.privacy.redaction import Redactor


@dataclass(frozen=True, slots=True)
class Privacy:
    """Choices of the user.

    Attributes:
        mask_text: paint over text that is burned into images. redact: replace identifiers in texts.
    """

    mask_text: bool = False
    redact: bool = False


@dataclass(frozen=True, slots=True)
class PrivacyTools:
    """What carries the choices out. `name` goes into the fingerprint: "" when nothing is done."""

    masker: TextMasker | None
    redactor: Redactor | None
    name: str


def open_privacy(
    choices: Privacy, root: Path, listing: str, limits: Limits = LIMITS
) -> PrivacyTools:
    """The tools for one import; `listing` is a hash of the files that salts hashed ids."""
    masker = default_masker() if choices.mask_text else None
    redactor = Redactor(root, sha256_json(["redact", listing]), limits) if choices.redact else None
    parts = [part.name for part in (masker, redactor) if part is not None]
    return PrivacyTools(masker, redactor, " ".join(parts))
