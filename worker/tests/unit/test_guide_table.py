"""docs/guide-tests*.md say which tests show each row of the guide, by the tests' marks."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[3]
TESTS = CHECKOUT / "worker" / "tests"
TOOL = runpy.run_path(str(CHECKOUT / "tools" / "guide_tests.py"))
TABLE = """## Retries

| section | row | test |
| --- | --- | --- |
| Retry flow | 3. a \\| b | `old.py::test_gone` |

| ours | and theirs |
| --- | --- |
| 1 | 2 |

| what | test |
| --- | --- |
| waits | |
"""


def _tests_by_row() -> dict[Any, list[str]]:
    tests: dict[Any, list[str]] = {}
    for row, file, name in TOOL["marks"]():
        tests.setdefault(row, []).append(f"`{file}::{name}`")
    return tests


@pytest.mark.parametrize("page", TOOL["PAGES"], ids=lambda page: page.name)
def test_the_pages_are_what_the_marks_say(page: Path) -> None:
    text, rows = TOOL["written"](page.read_text(), _tests_by_row())
    assert rows
    assert page.read_text() == text, "run `make guide-tests`"


def test_every_row_has_a_test_and_every_mark_a_row() -> None:
    tests = _tests_by_row()
    rows = [row for page in TOOL["PAGES"] for row in TOOL["written"](page.read_text(), tests)[1]]
    assert len(rows) > 80
    assert len(set(rows)) == len(rows)
    assert TOOL["problems"](tests, rows) == []


@pytest.mark.parametrize("path", sorted((TESTS / "integration").glob("test_guide*.py")), ids=lambda path: path.stem)
def test_every_test_of_the_guide_is_marked(path: Path) -> None:
    marked = {name for _row, file, name in TOOL["marks"]() if file == f"integration/{path.name}"}
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    body = ast.parse(path.read_text()).body
    assert marked == {node.name for node in body if isinstance(node, functions) and node.name.startswith("test_")}


def test_a_tables_last_column_is_written_and_nothing_else() -> None:
    row = TOOL["Row"]
    tests = {row("Retry flow", "3. a \\| b"): ["`a.py::test_a`", "`b.py::test_b`"], row("Retries", "goes"): ["`c`"]}
    text, rows = TOOL["written"](TABLE, tests)
    changed = TABLE.replace("`old.py::test_gone`", "`a.py::test_a`, `b.py::test_b`").replace(
        "| waits | |", "| waits |  |"
    )
    assert text == changed
    assert rows == [row("Retry flow", "3. a \\| b"), row("Retries", "waits")]
    unmarked, unknown = TOOL["problems"](tests, rows)
    assert "('Retries', 'waits')" in unmarked
    assert "('Retries', 'goes')" in unknown
