"""Where the questions of a task come from, under which terms, and who says so."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from infimed.data.fieldmap import Part

UNVERIFIED = "unverified"
REVISION = re.compile(rf"[0-9a-f]{{40}}|{UNVERIFIED}")
"""A full commit, or that none could be verified."""
Access = Literal["open", "gated", "physionet", "own"]
"""open: anyone may fetch it. gated: terms to accept on a site. physionet: training and an agreement.
own: your records, or generated ones."""


class Stated(Part):
    """A value that somebody states, and who: nothing about a data set is written down from memory.

    ``unverified`` as value says that no statement could be checked; `source` then says why.
    """

    value: str | int
    source: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def names_its_source(cls, given: Any) -> Any:
        if isinstance(given, dict | Stated):
            return given
        raise ValueError(f"say who states it: {{value: {given}, source: ...}}")

    def __str__(self) -> str:
        return f"{self.value:,}" if isinstance(self.value, int) else self.value


OWN = Stated(value="as imported", source="every record states its own")


class Source(Part):
    """Where the questions come from and under which terms.

    Attributes:
        dataset: its name. hub: id on the Hugging Face Hub. revision: full commit there.
        license, questions: licence and number of questions asked. access: see `Access`.
        folders: names that its folder may have below a data root, besides the task's and the Hub's.
        get: how to obtain what the Hub's files do not give by themselves (archives, agreements).
        modalities: "text" where no image is shown.
    """

    dataset: str
    hub: str = ""
    revision: Stated | None = None
    license: Stated = OWN
    questions: Stated | None = None
    access: Access = "own"
    languages: tuple[str, ...] = ("en",)
    modalities: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    get: str = ""
    citation: str = ""

    @model_validator(mode="after")
    def says_what_it_must(self) -> Self:
        if self.access == "own":
            return self
        for name in ("revision", "questions"):
            if getattr(self, name) is None:
                raise ValueError(f"state {name} with its source; the value may be {UNVERIFIED!r}")
        if self.license is OWN:
            raise ValueError(f"state license with its source; the value may be {UNVERIFIED!r}")
        if not REVISION.fullmatch(str(self.revision and self.revision.value)):
            raise ValueError(f"a revision is a full commit (40 hex digits) or {UNVERIFIED!r}")
        return self
