"""The house's floors: a module imports only from floors below its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "infimed"
FLOORS = {
    "core": 1,
    "recipes": 1,
    "data": 2,
    "packing": 3,
    "model": 3,
    "matching": 3,
    "inference": 4,
    "curation": 5,
    "training": 5,
    "evaluation": 5,
    "serving": 5,
    "pipeline": 6,
    "studies": 7,
    "cli": 8,
}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "infimed" and len(parts) > 1 and parts[1] in FLOORS:
                found.add(parts[1])
    return found


MODULES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT)


def test_every_room_has_a_floor() -> None:
    rooms = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms <= set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_imports_only_from_floors_below(path: Path) -> None:
    own = room(path)
    for other in imported_rooms(path) - {own}:
        assert FLOORS[other] < FLOORS[own], (
            f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"
        )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_is_no_longer_than_500_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
