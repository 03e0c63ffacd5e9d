"""What a judge is asked about a record: the rubric as data, and the turns made from it.

Invariant: the request is a pure function of the record's content, the rubric and the seed, so equal
records are asked once and a stored answer stays valid. Only the record's text, its pictures and a
fixed list of acquisition facts leave the house; ids, groups, paths and other facts never do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from infimed.core.errors import RecipeError
from infimed.core.files import canonical_json, sha256_json
from infimed.core.seeds import stream
from infimed.curation.findings import QUALITY
from infimed.data.record import ImageRef, Message, Record
from infimed.inference.replies import CUT, unmarked
from infimed.inference.requests import Pixels, Request, picture_of

SHOWN_FACTS: Final[tuple[str, ...]] = (
    "modality", "anatomy", "body_part", "side", "view", "sequence", "stain", "pixel_spacing_mm",
)  # fmt: skip


@dataclass(frozen=True)
class JudgeRubric:
    """The five criteria and the words around them. Fields as in `judge_rubric.yaml`."""

    version: str
    system: str
    instruction: str
    answer: str
    dimensions: Mapping[str, str]
    max_new_tokens: int = 700
    max_record_chars: int = 12000

    @cached_property
    def identity(self) -> str:
        """16 hex digits naming everything that is asked."""
        return sha256_json(self.to_dict())[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` inverts it."""
        return {
            "version": self.version,
            "max_new_tokens": self.max_new_tokens,
            "max_record_chars": self.max_record_chars,
            "system": self.system,
            "instruction": self.instruction,
            "answer": self.answer,
            "dimensions": dict(self.dimensions),
        }

    @staticmethod
    def from_dict(value: object, where: str = "judge rubric") -> JudgeRubric:
        """Inverse of `to_dict`.

        Raises:
            RecipeError: a key is missing, unknown or of the wrong kind, or a dimension is.
        """
        if not isinstance(value, Mapping):
            raise RecipeError("a judge's rubric is a mapping", where=where)
        texts = ("version", "system", "instruction", "answer")
        numbers = ("max_new_tokens", "max_record_chars")
        for name in value:
            if name not in (*texts, *numbers, "dimensions"):
                raise RecipeError("unknown key", where=where, seen=str(name))
        for name in texts:
            if not isinstance(value.get(name), str) or not value[name].strip():
                raise RecipeError(f"'{name}' must be text", where=where, seen=value.get(name))
        for name in numbers:
            number = value.get(name, 1)
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise RecipeError(f"'{name}' must be a whole number", where=where, seen=number)
        criteria = value.get("dimensions")
        if not isinstance(criteria, Mapping) or set(criteria) != set(QUALITY):
            raise RecipeError(
                "a judge's rubric has one criterion per dimension",
                where=where,
                seen=list(criteria) if isinstance(criteria, Mapping) else criteria,
                accepted=QUALITY,
            )
        if not all(isinstance(text, str) and text.strip() for text in criteria.values()):
            raise RecipeError("a criterion must be text", where=where)
        return JudgeRubric(
            **{name: value[name] for name in texts},
            **{name: value[name] for name in numbers if name in value},
            dimensions={name: criteria[name] for name in QUALITY},
        )

    @staticmethod
    def load(path: Path | None = None) -> JudgeRubric:
        """The rubric in `path`, or the one in the package.

        Raises:
            RecipeError: missing or malformed.
        """
        if path is None:
            text = resources.files("infimed.curation").joinpath("judge_rubric.yaml").read_text("utf-8")  # fmt: skip
            return JudgeRubric.from_dict(yaml.safe_load(text))
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RecipeError("file not found", where=str(path)) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"is not valid YAML ({error})", where=str(path)) from error
        return JudgeRubric.from_dict(value, str(path))


def shown_facts(record: Record) -> dict[str, Any]:
    """Facts a judge may compare the text with: the record's, else those of its images."""
    found: dict[str, Any] = {}
    for name in SHOWN_FACTS:
        values = [facts[name] for facts in (record.facts, *(i.facts for i in record.images)) if facts.get(name)]  # fmt: skip
        if values:
            found[name] = values[0]
    return found


def _shown(record: Record, most: int) -> list[str | int]:
    """The record as content parts: its turns in order, pictures where they stand."""
    parts: list[str | int] = [f"task: {record.task}\n"]
    facts = shown_facts(record)
    if facts:
        parts.append(unmarked(f"facts from the header: {canonical_json(facts)}\n"))
    left = most
    for turn in record.messages:
        parts.append(f"\n[{turn.role}] ")
        for part in turn.content:
            if isinstance(part, int):
                parts.append(part)
            elif left > 0:
                text = part if len(part) <= left else part[:left] + CUT
                left -= len(part)
                parts.append(unmarked(text))
    if record.choices:
        lines = "".join(f"\n- {choice}" for choice in record.choices)
        parts.append(unmarked(f"\n\noptions:{lines}\nanswer on record: {record.answer}"))
    return parts


def judge_request(
    record: Record,
    rubric: JudgeRubric,
    load: Callable[[ImageRef], Pixels],
    *,
    id: str,
    seed: int = 0,
) -> Request:
    """The request that asks for a judgement of `record`.

    The order of the criteria is drawn by seed and content, so that no criterion profits from
    standing first.

    Args:
        load: decodes an image; called only when the request is sent.
        id: of the request.
    """
    shown = _shown(record, rubric.max_record_chars)
    pictures = tuple(picture_of(ref, load) for ref in record.images)
    content = sha256_json([shown, [picture.sha256 for picture in pictures]])
    order = stream(seed, "criteria", rubric.identity, content).permutation(len(QUALITY))
    names = [QUALITY[int(index)] for index in order]
    criteria = "".join(f"\n{name.upper()}: {rubric.dimensions[name]}" for name in names)
    form = ", ".join(f'"{name}": {{"level": 0|1|2|"U", "evidence": "..."}}' for name in names)
    asked = f"{rubric.instruction}\n{criteria}\n\n{rubric.answer}\n{{{form}}}"
    turns = (
        Message("system", (rubric.system,)),
        Message("user", (f"{asked}\n\n<<<RECORD\n", *shown, "\nRECORD>>>")),
    )
    return Request(id, turns, pictures, rubric.max_new_tokens)
