"""OpenAI messages JSONL: ``{"messages": [{"role", "content": text or parts}]}``.

Image parts are ``{"type": "image_url", "image_url": {"url": ...}}`` or ``{"type": "image",
"image": ...}``; the place is a path below the data folder or a ``data:`` URL. Nothing is fetched:
``http`` and ``file`` addresses are refused. An ``images`` list with ``<image>`` in plain text is
accepted too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from infimed.core.errors import DataError
from infimed.core.files import sha256_bytes
from infimed.data.readers.base import (
    Defaults,
    Item,
    Options,
    ReadProblem,
    candidates,
    chat_task,
    defaults,
    first_object,
    image_refs,
    json_items,
    problem_of,
    split_name,
    turns_with_images,
)
from infimed.data.readers.llava import named_images
from infimed.data.record import Message, Part, Record, Role, Task

NAME = "messages"
OPTIONS: Mapping[str, str] = {"task": "task of records that state none (default: by turns)"}
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def detect(path: Path) -> bool:
    """A JSON or JSONL file whose first object has ``messages``."""
    return any("messages" in first_object(file) for file in candidates(path, (".json", ".jsonl")))


def read(path: Path, options: Options) -> Iterator[Item]:
    """Every line of every such file, in file order."""
    common = defaults(path, options)
    for file in candidates(path, (".json", ".jsonl")):
        if not path.is_file() and "messages" not in first_object(file):
            continue
        for position, item in enumerate(json_items(file)):
            if isinstance(item, ReadProblem):
                yield item
                continue
            where, value = item
            try:
                yield message_record(value, f"{file.stem}-{position}", common, options)
            except DataError as error:
                yield problem_of(error, where)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                yield ReadProblem(where, f"not a list of messages ({type(error).__name__})", "")


def message_record(value: Any, fallback_id: str, common: Defaults, options: Options) -> Record:
    """A record from one object with ``messages``.

    Raises:
        DataError: no messages, an unknown role or part, or an address that would need a network.
    """
    turns = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(turns, list) or not turns:
        raise DataError("no messages")
    names = named_images(value.get("images"))
    if names:
        texts = [(_role(turn), _plain(turn.get("content"))) for turn in turns]
        messages = turns_with_images(cast(list[tuple[str, str]], texts), len(names), "<image>")
    else:
        messages = tuple(Message(_role(turn), _parts(turn.get("content"), names)) for turn in turns)
    answer, identity = value.get("answer"), value.get("id")
    name = str(identity) if isinstance(identity, (str, int)) and str(identity) else fallback_id
    group = value.get("group") or (names[0] if names else "")
    group = (
        f"image-{sha256_bytes(group.encode())[:16]}" if str(group).startswith("data:") else group
    )
    return Record(
        id=name,
        images=image_refs(names),
        messages=messages,
        task=cast(
            Task, value.get("task") or options.get("task") or chat_task(messages, len(names))
        ),
        choices=tuple(str(choice) for choice in value.get("choices") or ()),
        answer=str(answer) if answer is not None else None,
        source=str(value.get("source") or common.source),
        license=str(value.get("license") or common.license),
        split=split_name(value["split"], "split") if value.get("split") else common.split,
        group=str(group),
        facts=dict(value["facts"]) if isinstance(value.get("facts"), dict) else {},
    )


def _role(turn: Mapping[str, Any]) -> Role:
    role = ROLES.get(str(turn.get("role")))
    if role is None:
        raise DataError("unknown role", seen=str(turn.get("role"))[:40], accepted=ROLES)
    return role


def _plain(content: object) -> str:
    if not isinstance(content, str):
        raise DataError("with an images list, content must be plain text")
    return content


def _parts(content: object, names: list[str]) -> tuple[Part, ...]:
    """Content parts; appends the places of images to `names`."""
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list):
        raise DataError("content must be text or a list of parts")
    parts: list[Part] = []
    for part in content:
        kind = part.get("type")
        if kind in ("text", "input_text", "output_text"):
            if not isinstance(part.get("text"), str):
                raise DataError("a text part has no text")
            parts.append(part["text"])
        elif kind in ("image_url", "image", "input_image"):
            place = part.get("image_url", part.get("image", part.get("path")))
            place = place.get("url") if isinstance(place, dict) else place
            if not isinstance(place, str) or not place:
                raise DataError("an image part names no image", fix="add the path or a data: URL")
            if "://" in place[:16]:
                raise DataError(
                    "an image on a network or an absolute place is never fetched",
                    seen=place[:80],
                    accepted="a path below the data folder, or data:image/...;base64,...",
                    fix="download it and name the local file",
                )
            parts.append(len(names))
            names.append(place)
        else:
            raise DataError("unknown content part", seen=str(kind)[:40], accepted="text, image_url")
    return tuple(parts)
