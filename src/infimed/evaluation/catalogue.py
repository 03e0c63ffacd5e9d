"""What tasks there are: the rows of `infimed eval --list` and of docs/tasks.md.

Reads the task files and nothing else, so that it is there at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infimed.evaluation.groups import groups
from infimed.evaluation.origin import UNVERIFIED, Stated
from infimed.evaluation.spec import TaskSpec, load_task, task_names


@dataclass(frozen=True, slots=True)
class Line:
    """One task as it is listed."""

    name: str
    kinds: str
    modality: str
    size: str
    license: str
    access: str
    languages: str
    title: str


HEADS = ("name", "kinds", "modality", "size", "licence", "access", "languages", "what")


def line(spec: TaskSpec) -> Line:
    """A task's line; "?" where nothing is verified."""
    source = spec.source
    return Line(
        name=spec.name,
        kinds=", ".join(spec.kinds) or "any",
        modality=", ".join(source.modalities) or "as imported",
        size=_stated(source.questions) or "as imported",
        license=_stated(source.license),
        access=source.access,
        languages=", ".join(source.languages),
        title=spec.title,
    )


def lines(names: Sequence[str] | None = None) -> list[Line]:
    """Lines of the named tasks, default: of all that ship, by name."""
    return [line(load_task(name)) for name in (task_names() if names is None else names)]


def cells(one: Line) -> list[str]:
    """The line's cells in the order of `HEADS`."""
    return [getattr(one, name) for name in Line.__slots__]


def facts(one: Line) -> str:
    """Kinds, modality, size, licence, access and languages in one text."""
    return "; ".join(cells(one)[1:-1])


def markdown() -> str:
    """The page docs/tasks.md: groups, all tasks, and who states each number and licence."""
    specs = [load_task(name) for name in task_names()]
    parts = [
        "# Tasks",
        "",
        "Written by `infimed eval --list --markdown > docs/tasks.md`. A question mark is a value that",
        "could not be verified; the last table says why, and who states the others. docs/evaluation.md",
        "says how to ask them, docs/adding-a-benchmark.md how to add one.",
        "",
        "## Groups",
        "",
        *markdown_table(
            ("group", "tasks"), [[name, ", ".join(members)] for name, members in groups().items()]
        ),
        "",
        "## All tasks",
        "",
        *markdown_table(HEADS, [cells(line(spec)) for spec in specs]),
        "",
        "## Where the files come from, and who says so",
        "",
        *markdown_table(
            ("name", "Hub", "revision", "licence", "size", "to get it"),
            [_provenance(spec) for spec in specs if spec.layouts],
        ),
    ]
    return "\n".join(parts) + "\n"


def _provenance(spec: TaskSpec) -> list[str]:
    source = spec.source
    stated = (source.revision, source.license, source.questions)
    return [
        spec.name,
        source.hub,
        *(f"{one.value}: {one.source}" if one is not None else "" for one in stated),
        source.get,
    ]


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    made = [list(heads), ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in made]


def _stated(value: Stated | None) -> str:
    if value is None:
        return ""
    return "?" if value.value == UNVERIFIED else str(value)
