"""Named baselines: one YAML file each says where a model's weights are, under which terms, and how its
authors ask it. Every such field names who states it; what could not be checked says so.

Reads YAML and nothing else, so that the list is there at once.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Self

import yaml
from pydantic import Field, ValidationError, model_validator

from infimed.core.errors import DataError, UsageError, nearest_name
from infimed.data.fieldmap import Part
from infimed.evaluation.catalogue import markdown_table
from infimed.evaluation.origin import REVISION, UNVERIFIED, Stated

HEADS = ("name", "what", "Hub", "licence", "number type", "revision")


class Baseline(Part):
    """A model of other people.

    Attributes:
        name: what is typed. title: for people. hub: id on the Hugging Face Hub.
        revision: full commit there. architecture: what its config.json must say as model_type.
        dtype: number type on a GPU. prompt: how it is asked, in words.
        system: a system turn. template: chat template (Jinja) instead of the repository's.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str
    hub: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: Stated
    license: Stated
    architecture: Stated
    dtype: Stated
    prompt: Stated
    citation: str
    system: str = ""
    template: str = ""

    @model_validator(mode="after")
    def pins_a_whole_revision(self) -> Self:
        if not REVISION.fullmatch(str(self.revision.value)):
            raise ValueError(f"a revision is a full commit (40 hex digits) or {UNVERIFIED!r}")
        return self

    @property
    def pinned(self) -> str | None:
        """The revision, or None where none could be verified."""
        return None if self.revision.value == UNVERIFIED else str(self.revision.value)


def parse_baseline(text: str, where: str) -> Baseline:
    """A baseline from YAML text.

    Raises:
        DataError: not YAML, an unknown key, or a value that is not accepted.
    """
    try:
        return Baseline.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise DataError(f"is not valid YAML ({error})", where=where) from error
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A key spelled wrong is two errors, and the other one is what is missing.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        key = ".".join(str(part) for part in first["loc"]) or "baseline"
        unknown = first["type"] == "extra_forbidden"
        valid = list(Baseline.model_fields)
        raise DataError(
            "unknown key" if unknown else first["msg"].removeprefix("Value error, "),
            where=f"{where}: {key}",
            accepted=valid if unknown else None,
            nearest=nearest_name(key, valid) if unknown else None,
        ) from error


@lru_cache(maxsize=1)
def baselines() -> dict[str, Baseline]:
    """Every baseline by name, in the order of the names.

    Raises:
        DataError: a file is wrong, or two have one name.
    """
    found: dict[str, Baseline] = {}
    folder = resources.files("infimed.evaluation") / "baselines"
    files = [file for file in folder.iterdir() if file.name.endswith(".yaml")]
    for file in sorted(files, key=lambda one: one.name):
        one = parse_baseline(file.read_text(encoding="utf-8"), file.name)
        if one.name in found:
            raise DataError("two baselines have one name", where=file.name, seen=one.name)
        found[one.name] = one
    return dict(sorted(found.items()))


def baseline(name: str) -> Baseline:
    """The baseline of that name.

    Raises:
        UsageError: there is none.
    """
    known = baselines()
    if name not in known:
        raise UsageError(
            "no such baseline",
            seen=name,
            accepted=known,
            nearest=nearest_name(name, known),
            fix="infimed eval --models",
        )
    return known[name]


def rows() -> list[list[str]]:
    """Cells of every baseline in the order of `HEADS`; "?" where nothing is verified."""
    return [
        [one.name, one.title, one.hub, *map(_stated, (one.license, one.dtype)), _short(one.pinned)]
        for one in baselines().values()
    ]


def markdown() -> str:
    """The page docs/baselines.md: all baselines, and who states each field."""
    parts = [
        "# Baselines",
        "",
        "Written by `infimed eval --models --markdown > docs/baselines.md`. A question mark is a value that",
        "could not be verified. docs/models.md says how to evaluate them.",
        "",
        *markdown_table(HEADS, rows()),
        "",
        "## Who says so",
        "",
        *markdown_table(("name", "field", "value", "source"), _provenance()),
    ]
    return "\n".join(parts) + "\n"


def _provenance() -> list[list[str]]:
    fields = ("revision", "license", "architecture", "dtype", "prompt")
    return [
        *(
            [one.name, field, str(getattr(one, field).value), getattr(one, field).source]
            for one in baselines().values()
            for field in fields
        ),
        *([one.name, "citation", one.citation, ""] for one in baselines().values()),
    ]


def _stated(value: Stated) -> str:
    return "?" if value.value == UNVERIFIED else str(value)


def _short(revision: str | None) -> str:
    return revision[:8] if revision else "?"
