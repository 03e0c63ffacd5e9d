"""LLaVA JSON: ``[{"id", "image", "conversations": [{"from": "human"|"gpt", "value"}]}]``.

Source of the form: LLaVA's instruction data (https://github.com/haotian-liu/LLaVA, docs/Finetune_Custom_Data.md).
``<image>`` in the text marks where the image stands; several images come as a list under ``image``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError
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
from infimed.data.record import Record

NAME = "llava"
OPTIONS: Mapping[str, str] = {
    "task": "caption, open, report or dialogue (default: by number of turns)",
    "ids": "keep (default), or position: number the records, where ids in the file repeat",
}
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
}


def detect(path: Path) -> bool:
    """A JSON or JSONL file whose first object has ``conversations`` and ``image``."""
    return any(_is_llava(file) for file in candidates(path, (".json", ".jsonl")))


def read(path: Path, options: Options) -> Iterator[Item]:
    """Every element of every such file, in file order."""
    common = defaults(path, options)
    for file in candidates(path, (".json", ".jsonl")):
        if not path.is_file() and not _is_llava(file):
            continue
        for position, item in enumerate(json_items(file)):
            if isinstance(item, ReadProblem):
                yield item
                continue
            where, value = item
            try:
                yield _record(value, f"{file.stem}-{position}", common, options)
            except DataError as error:
                yield problem_of(error, where)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                yield ReadProblem(
                    where, f"not a LLaVA record ({type(error).__name__}: {error})", ""
                )


def conversation(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(role, text) turns of ``conversations``.

    Raises:
        DataError: no turns, an unknown speaker, or text that is no string.
    """
    turns = value.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError("no conversations")
    made = []
    for turn in turns:
        speaker, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if speaker not in ROLES:
            raise DataError("unknown speaker", seen=str(speaker)[:40], accepted=ROLES)
        if not isinstance(text, str):
            raise DataError("a turn has no text")
        made.append((ROLES[speaker], text))
    return made


def named_images(value: object) -> list[str]:
    """Image names of a field that holds nothing, one name or a list of names.

    Raises:
        DataError: it holds something else.
    """
    if value is None or value == "":
        return []
    names: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise DataError("image names must be text", seen=str(value)[:80])
    return names


def make_record(
    value: Mapping[str, Any], names: list[str], fallback_id: str, common: Defaults, options: Options
) -> Record:
    """A record from one conversation and its image names. Shared with the ShareGPT reader."""
    turns = conversation(value)
    task, by_position = options.get("task"), options.get("ids") == "position"
    if isinstance(value.get("system"), str) and value["system"]:
        turns.insert(0, ("system", value["system"]))
    messages = turns_with_images(turns, len(names), "<image>")
    identity = None if by_position else value.get("id")
    name = str(identity) if isinstance(identity, (str, int)) and str(identity) else fallback_id
    group = str(value.get("group") or (names[0] if names else ""))
    return Record(
        id=name,
        images=image_refs(names),
        messages=messages,
        task=task or chat_task(messages, len(names)),  # type: ignore[arg-type]
        source=common.source,
        license=str(value.get("license") or common.license),
        split=split_name(value["split"], "split") if value.get("split") else common.split,
        group=group,
        facts=dict(value["facts"]) if isinstance(value.get("facts"), dict) else {},
    )


def _record(value: Any, fallback_id: str, common: Defaults, options: Options) -> Record:
    if not isinstance(value, dict):
        raise DataError("not a JSON object")
    return make_record(value, named_images(value.get("image")), fallback_id, common, options)


def _is_llava(file: Path) -> bool:
    value = first_object(file)
    return "conversations" in value and "image" in value
