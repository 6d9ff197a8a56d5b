"""docs/guide-tests*.md name tests that exist, and every test that was written for the guide."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
TESTS = CHECKOUT / "worker" / "tests"
PAGES = [path.read_text() for path in sorted((CHECKOUT / "docs").glob("guide-tests*.md"))]
NAMED = [found for page in PAGES for found in re.findall(r"`([\w/]+\.py)::(\w+)`", page)]


def _names_of(path: Path) -> set[str]:
    """Return the names of a file's tests."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    body = ast.parse(path.read_text()).body
    return {node.name for node in body if isinstance(node, functions) and node.name.startswith("test_")}


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)), ids="::".join)
def test_every_test_that_the_table_names_exists(file: str, test: str) -> None:
    folder = CHECKOUT if file.startswith("molecule/") else TESTS
    assert test in _names_of(folder / file)


def test_every_row_names_a_test() -> None:
    rows = [line for page in PAGES for line in page.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| section |", "| what |", "| --- |"))]
    assert len(rows) > 80
    assert [row for row in rows if not re.search(r"`[\w/]+\.py::\w+`", row.rsplit(" | ", 1)[1])] == []


@pytest.mark.parametrize("path", sorted((TESTS / "integration").glob("test_guide*.py")), ids=lambda path: path.stem)
def test_every_test_of_the_guide_is_in_the_table(path: Path) -> None:
    named = {test for file, test in NAMED if file == f"integration/{path.name}"}
    assert _names_of(path) == named
