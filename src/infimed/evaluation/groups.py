"""Names that stand for several tasks: ``--tasks medevalkit`` is every benchmark of that harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import yaml

from infimed.core.errors import UsageError, nearest_name
from infimed.evaluation.spec import task_names


@dataclass(frozen=True, slots=True)
class Chosen:
    """Tasks in the order asked, each once, and those that only a group named.

    What a group brings in may be left out where its data is not there; what was named may not.
    """

    names: tuple[str, ...]
    by_group: frozenset[str]


@lru_cache(maxsize=1)
def groups() -> Mapping[str, tuple[str, ...]]:
    """Group -> names of its tasks."""
    text = (resources.files("infimed.evaluation") / "groups.yaml").read_text(encoding="utf-8")
    return {name: tuple(members) for name, members in yaml.safe_load(text).items()}


def choose(text: str) -> Chosen:
    """Tasks from a comma-separated list of names, groups and task files.

    Raises:
        UsageError: neither a task nor a group.
    """
    known = set(task_names())
    named: dict[str, bool] = {}
    for name in (part.strip() for part in text.split(",")):
        if not name:
            continue
        if name in groups():
            named.update({member: named.get(member, False) for member in groups()[name]})
        elif name in known or name.endswith(".yaml"):
            named[name] = True
        else:
            accepted = [*groups(), *sorted(known)]
            raise UsageError(
                "no such task or group",
                seen=name,
                accepted=accepted,
                nearest=nearest_name(name, accepted),
                fix="infimed eval --list",
            )
    return Chosen(tuple(named), frozenset(name for name, own in named.items() if not own))
