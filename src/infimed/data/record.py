"""The record: one question, caption, report or dialogue about zero or more images.

A record is frozen and self-contained. Its JSON and Parquet forms round-trip exactly. Options of a
choice question are kept apart from the question text: letters, order and blinding belong to whoever
renders the record (`infimed.model.processing`), so that training and evaluation cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from infimed.core.errors import DataError, nearest_name

Task = Literal["caption", "closed", "open", "choice", "report", "dialogue", "text"]
Role = Literal["system", "user", "assistant"]
Split = Literal["train", "dev", "calibration", "test"]
TASKS: tuple[str, ...] = get_args(Task)
ROLES: tuple[str, ...] = get_args(Role)
SPLITS: tuple[str, ...] = get_args(Split)

Fact: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any] | None
Facts: TypeAlias = Mapping[str, Fact]
Part: TypeAlias = str | int
"""A content part: text, or the index of an image of the record."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where one image is and what is known of it without decoding.

    Attributes:
        locator: path below the data root (before import) or ``sha256`` key (in shards).
            A reader of volumes or multi-frame files appends ``#frame=7`` or ``#axis=2,slice=10``.
        sha256: hex digest of the stored bytes; empty before import.
        width, height: size in pixels as stored; 0 when not yet read.
        facts: acquisition facts from headers, never guessed: modality, view, side, anatomy,
            window_center, window_width, pixel_spacing_mm ([row, column]), bits_stored, ...
    """

    locator: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    facts: Facts = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels; (0, 0) when not yet read."""
        return self.width, self.height

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return {
            "locator": self.locator,
            "sha256": self.sha256,
            "width": self.width,
            "height": self.height,
            "facts": dict(self.facts),
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> ImageRef:
        """Inverse of `to_dict`."""
        return ImageRef(
            locator=value["locator"],
            sha256=value.get("sha256", ""),
            width=int(value.get("width", 0)),
            height=int(value.get("height", 0)),
            facts=dict(value.get("facts", {})),
        )


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: a role and content parts in order (text, or an image index)."""

    role: Role
    content: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The turn's text parts joined; images leave no trace."""
        if len(self.content) == 1:
            (only,) = self.content
            return only if isinstance(only, str) else ""
        return "".join([part for part in self.content if isinstance(part, str)])

    def to_dict(self) -> dict[str, Any]:
        """OpenAI-style form: ``{"role", "content": [{"type": "text"|"image", ...}]}``."""
        parts = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "index": part}
            for part in self.content
        ]
        return {"role": self.role, "content": parts}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Message:
        """Inverse of `to_dict`; also accepts a plain string as content."""
        content = value["content"]
        if isinstance(content, str):
            return Message(role=value["role"], content=(content,))
        return Message(
            role=value["role"],
            content=tuple(
                part["text"] if part["type"] == "text" else int(part["index"]) for part in content
            ),
        )


@dataclass(frozen=True, slots=True)
class Record:
    """One sample. See the module docstring and docs/data.md.

    Attributes:
        id: unique within a data set, stable across imports of the same files.
        images: the images, in the order in which content parts index them.
        messages: the turns. Closed, open and choice records are one user turn (the question) and
            one assistant turn (the answer); a caption or report likewise; a dialogue has many turns.
        task: what kind of sample it is.
        choices: options of a choice record, without letters; empty otherwise.
        answer: gold short answer where one exists (closed, open, choice: the option's text).
        source: data set name. license: SPDX id or "unknown". split: which part it belongs to.
        group: patient or image cluster id; never crosses a split, and intervals cluster on it.
        facts: what is known of the sample: modality, anatomy, side, question_type, finding,
            finding_size_fraction (of the image width), age, sex, ...
    """

    id: str
    images: tuple[ImageRef, ...]
    messages: tuple[Message, ...]
    task: Task
    choices: tuple[str, ...] = ()
    answer: str | None = None
    source: str = ""
    license: str = "unknown"
    split: Split = "train"
    group: str = ""
    facts: Facts = field(default_factory=dict)

    @property
    def question(self) -> str:
        """Text of the first user turn, or '' when there is none."""
        for turn in self.messages:
            if turn.role == "user":
                return turn.text
        return ""

    @property
    def response(self) -> str:
        """Text of the last assistant turn, or '' when there is none."""
        for turn in reversed(self.messages):
            if turn.role == "assistant":
                return turn.text
        return ""

    def problem(self) -> DataError | None:
        """The first broken invariant, or None. Checked by every reader and by import."""
        if not self.id:
            return DataError("a record has an empty id", where=self.source or None)
        if self.task not in TASKS:
            return DataError(
                "unknown task",
                where=self.id,
                seen=self.task,
                accepted=TASKS,
                nearest=nearest_name(self.task, TASKS),
            )
        if self.split not in SPLITS:
            return DataError(
                "unknown split",
                where=self.id,
                seen=self.split,
                accepted=SPLITS,
                nearest=nearest_name(self.split, SPLITS),
            )
        if not self.messages:
            return DataError("a record needs at least one message", where=self.id)
        used: set[int] = set()
        for turn in self.messages:
            if turn.role not in ROLES:
                return DataError("unknown role", where=self.id, seen=turn.role, accepted=ROLES)
            for part in turn.content:
                if isinstance(part, int):
                    if not 0 <= part < len(self.images):
                        return DataError(
                            f"a turn shows image {part}, but the record has {len(self.images)} images",
                            where=self.id,
                            fix="add the missing image or remove its placeholder from the text",
                        )
                    used.add(part)
        if len(used) != len(self.images):
            unused = sorted(set(range(len(self.images))) - used)
            return DataError(f"images {unused} are attached but no turn shows them", where=self.id)
        if self.task == "choice":
            if len(self.choices) < 2:
                return DataError(
                    "a choice question needs at least two choices",
                    where=self.id,
                    seen=list(self.choices),
                )
            if self.answer not in self.choices:
                return DataError(
                    "the answer is not among the choices",
                    where=self.id,
                    seen=self.answer,
                    accepted=self.choices,
                )
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form; `from_dict` inverts it exactly."""
        return {
            "id": self.id,
            "images": [image.to_dict() for image in self.images],
            "messages": [turn.to_dict() for turn in self.messages],
            "task": self.task,
            "choices": list(self.choices),
            "answer": self.answer,
            "source": self.source,
            "license": self.license,
            "split": self.split,
            "group": self.group,
            "facts": dict(self.facts),
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Record:
        """Inverse of `to_dict`.

        Raises:
            DataError: a required key is missing or has the wrong type.
        """
        try:
            return Record(
                id=value["id"],
                images=tuple(ImageRef.from_dict(image) for image in value.get("images", ())),
                messages=tuple(Message.from_dict(turn) for turn in value["messages"]),
                task=value["task"],
                choices=tuple(value.get("choices", ())),
                answer=value.get("answer"),
                source=value.get("source", ""),
                license=value.get("license", "unknown"),
                split=value.get("split", "train"),
                group=value.get("group", ""),
                facts=dict(value.get("facts", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a record ({error!r})", where=str(value.get("id", "?"))) from error

    def to_json(self) -> str:
        """One JSON line."""
        return json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Record:
        """Inverse of `to_json`."""
        return Record.from_dict(json.loads(text))


def question_record(
    *,
    id: str,
    question: str,
    answer: str,
    images: tuple[ImageRef, ...],
    task: Task,
    choices: tuple[str, ...] = (),
    **common: Any,
) -> Record:
    """A record of one question and its answer: images first, then the question, then the answer."""
    return Record(
        id=id,
        images=images,
        messages=(
            Message("user", (*range(len(images)), question)),
            Message("assistant", (answer,)),
        ),
        task=task,
        choices=choices,
        answer=answer if task in ("closed", "open", "choice") else None,
        **common,
    )
