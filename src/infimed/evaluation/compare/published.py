"""Numbers that others reported, each with who says so: shown beside ours, never paired with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from infimed.core.errors import DataError, UsageError, nearest_name
from infimed.data.fieldmap import Part


class Cited(Part):
    """Where numbers were read.

    Attributes:
        title: of the paper or page. link: how to find it. how: how the numbers were measured, as far as it
            says. read: what was read of it to write the numbers down.
    """

    title: str = Field(min_length=1)
    link: str = ""
    how: str = ""
    read: str = Field(min_length=1)


class Benchmark(Part):
    """A column of a reported table: our `tasks` it is shown beside, and how it `differs` from them."""

    tasks: tuple[str, ...] = Field(min_length=1)
    differs: str = ""


class Table(Part):
    """A reported table: `rows` are model -> benchmark -> per cent, `place` says where it stands."""

    source: str
    place: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    columns: dict[str, Benchmark] = Field(min_length=1)
    rows: dict[str, dict[str, float]] = Field(min_length=1)

    @model_validator(mode="after")
    def values_are_of_its_columns(self) -> Self:
        for model, values in self.rows.items():
            for name, value in values.items():
                if name not in self.columns:
                    raise ValueError(f"{model}: no column {name!r}")
                if not 0 <= value <= 100:
                    raise ValueError(f"{model}, {name}: {value} is not per cent")
        return self


class Published(Part):
    """A file of reported numbers."""

    sources: dict[str, Cited]
    tables: tuple[Table, ...]

    @model_validator(mode="after")
    def every_source_is_stated(self) -> Self:
        for table in self.tables:
            if table.source not in self.sources:
                near = nearest_name(table.source, self.sources)
                hint = f", did you mean {near!r}" if near else ""
                raise ValueError(f"no source {table.source!r}{hint}")
        return self

    def numbers(self) -> list[Reported]:
        """Every number with its source."""
        return [
            Reported(
                model=model,
                benchmark=name,
                tasks=table.columns[name].tasks,
                value=value,
                metric=table.metric,
                place=table.place,
                differs=table.columns[name].differs,
                cited=self.sources[table.source],
            )
            for table in self.tables
            for model, values in table.rows.items()
            for name, value in values.items()
        ]


@dataclass(frozen=True, slots=True)
class Reported:
    """One reported number: `value` in per cent of `metric`, as `cited` says at `place`."""

    model: str
    benchmark: str
    tasks: tuple[str, ...]
    value: float
    metric: str
    place: str
    differs: str
    cited: Cited


def parse_published(text: str, where: str) -> Published:
    """Reported numbers from YAML text.

    Raises:
        DataError: not YAML, an unknown key, a table without its source, or a value out of range.
    """
    try:
        values: Any = yaml.safe_load(text)
        return Published.model_validate(values)
    except yaml.YAMLError as error:
        raise DataError(f"is not valid YAML ({error})", where=where) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "file"
        raise DataError(
            first["msg"].removeprefix("Value error, "),
            where=f"{where}: {key}",
            accepted="sources: {KEY: {title, link, how, read}}; tables: [{source: KEY, place, metric, "
            "columns: {NAME: {tasks, differs}}, rows: {MODEL: {NAME: per cent}}}]",
        ) from error


@lru_cache(maxsize=1)
def shipped() -> Published:
    """The numbers that ship with the package."""
    file = resources.files("infimed.evaluation") / "published.yaml"
    return parse_published(file.read_text(encoding="utf-8"), "published.yaml")


def reported(tasks: Sequence[str], own: Path | None = None) -> dict[str, tuple[Reported, ...]]:
    """Task -> numbers reported on it, by model: shipped ones and those of the user's `own` file.

    Raises:
        UsageError: no such file. DataError: it is wrong.
    """
    numbers = shipped().numbers()
    if own is not None:
        if not own.is_file():
            raise UsageError("no such file of published numbers", seen=str(own))
        numbers += parse_published(own.read_text(encoding="utf-8"), str(own)).numbers()
    numbers.sort(key=lambda one: (one.model.lower(), one.cited.title))
    return {task: tuple(one for one in numbers if task in one.tasks) for task in tasks}
