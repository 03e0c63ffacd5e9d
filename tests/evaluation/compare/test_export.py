"""CSV and LaTeX: every number of the comparison, and nothing that acts."""

from __future__ import annotations

import csv
import io
import re

import pytest

from infimed.evaluation.compare.export import latex, to_csv, to_latex
from infimed.evaluation.compare.loading import read_models
from infimed.evaluation.compare.published import reported
from infimed.evaluation.compare.table import Comparison, compare
from infimed.inference.stubs import constant
from tests.evaluation.compare.folders import TASKS, benchmarks, evaluated, mostly_right


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("compare")
    shards = benchmarks(root)
    a = evaluated(mostly_right(shards, 3), shards, root / "a", zeroed=True)
    b = evaluated(constant("A"), shards, root / "b", TASKS[:2])
    return compare(read_models([f"+1+1={a}", f"b_%={b}"]), published=reported(TASKS))


@pytest.fixture(scope="module")
def rows(found: Comparison) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(found))))


def test_every_cell_of_the_scoreboards_has_its_line(found: Comparison, rows) -> None:
    for model in found.models:
        for name, task in model.tasks.items():
            stated = task.scores.cell("model").estimate
            (row,) = [
                r
                for r in rows
                if (r["what"], r["task"], r["column"], r["metric"])
                == ("score", name, "overall", "score")
                and r["model"].lstrip("'") == model.name
            ]
            assert float(row["mean"]) == pytest.approx(stated.mean, abs=1e-6)
            assert int(row["n"]) == stated.n
    kinds = {r["what"] for r in rows}
    assert kinds == {"score", "control", "control difference", "difference", "reported elsewhere"}


def test_a_pair_that_is_not_comparable_has_its_reason(rows) -> None:
    (row,) = [r for r in rows if r["what"] == "difference" and r["task"] == "medxpertqa_mm"]
    assert row["mean"] == "" and "was not asked this task" in row["note"]


def test_reported_numbers_keep_their_source(rows) -> None:
    others = [r for r in rows if r["what"] == "reported elsewhere"]
    assert others and all(r["source"] and 0 < float(r["mean"]) < 1 for r in others)


def test_no_cell_is_a_formula(rows) -> None:
    assert any(r["model"] == "'+1+1" for r in rows)
    for row in rows:
        for name, cell in row.items():
            number = re.fullmatch(r"-?[\d.]+(e-\d+)?", cell)
            assert number or cell[:1] not in ("=", "+", "-", "@"), (name, cell)


def test_latex_escapes_what_it_would_read() -> None:
    assert latex("a_b & 5 % $x$ {y} \\z #1 ~ ^ <") == (
        r"a\_b \& 5 \% \$x\$ \{y\} \textbackslash{}z \#1 \textasciitilde{} \textasciicircum{} \textless{}"
    )
    assert latex("two\nlines") == "two lines"


def test_latex_tables_are_balanced_and_have_equal_columns(found: Comparison) -> None:
    text = to_latex(found)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    for table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        columns, body = table
        for line in re.findall(r"^(.*) \\\\$", body, re.MULTILINE):
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            cells += sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert cells == len(columns), line
    assert "not asked" in text and r"b\_\%" in text
    assert not re.search(r"(?<!\\)_", re.sub(r"\\(label|begin|end)\{.*?\}", "", text))
