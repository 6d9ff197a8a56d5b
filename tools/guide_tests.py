"""Writes which tests show each row of the guide into docs/guide-tests*.md, from marks of the tests.

    guide_tests.py            write the pages
    guide_tests.py --check    end with status 1 where they are not what the marks say

A page has the rows, in the guide's order, and a test names the rows that it shows:

    @pytest.mark.guide("Retry flow", "5. exhausted: acknowledged, remains `FAILED`")

The section is the row's first column, or the heading above a table that has no such column.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = sorted((CHECKOUT / "docs").glob("guide-tests*.md"))
HEADS = ("| section | row | test |", "| what | test |")


class Row(NamedTuple):
    """A row of the guide.

    Attributes:
        section: Its section in the guide, or the heading of the page.
        text: What the guide says there, in short.
    """

    section: str
    text: str


def named(path: Path) -> str:
    """Return what the pages call a file: a worker's test by its folder below worker/tests."""
    return path.relative_to(CHECKOUT).as_posix().removeprefix("worker/tests/")


def marks() -> list[tuple[Row, str, str]]:
    """Return each mark: the row, the file and the test; those of the worker come first."""
    found = []
    for folder in (CHECKOUT / "worker/tests", CHECKOUT / "molecule"):
        for path in sorted(folder.rglob("test_*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found += [(row, named(path), node.name) for row in rows_of(node)]
    return found


def rows_of(test: ast.FunctionDef | ast.AsyncFunctionDef) -> list[Row]:
    """Return the rows that a test is marked with."""
    return [
        Row(*map(ast.literal_eval, mark.args))
        for mark in test.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.guide"
    ]


def written(text: str, tests: dict[Row, list[str]]) -> tuple[str, list[Row]]:
    """Return a page with the tests of its rows, and the rows that it has."""
    lines, rows = [], []
    heading, table = "", False
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        table = line in HEADS or (table and line.startswith("|"))
        if not table or line in HEADS or line.startswith("| ---"):
            lines.append(line)
            continue
        *before, _tests = (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|")))
        row = Row(*before) if len(before) > 1 else Row(heading, *before)
        rows.append(row)
        lines.append("| " + " | ".join([*before, ", ".join(tests.get(row, []))]) + " |")
    return "\n".join([*lines, ""]), rows


def problems(tests: dict[Row, list[str]], rows: list[Row]) -> list[str]:
    """Return what is wrong: rows without a test, and marks of rows that no page has."""
    return [
        *(f"no test is marked with {tuple(row)}" for row in rows if row not in tests),
        *(f"{', '.join(tests[row])}: no page has the row {tuple(row)}" for row in tests if row not in rows),
    ]


def main() -> int:
    """Write the pages, or check them; return the exit status."""
    tests: dict[Row, list[str]] = {}
    for row, file, name in marks():
        tests.setdefault(row, []).append(f"`{file}::{name}`")
    new = {page: written(page.read_text(), tests) for page in PAGES}
    wrong = problems(tests, [row for _text, rows in new.values() for row in rows])
    stale = [page for page, (text, _rows) in new.items() if text != page.read_text()]
    if "--check" in sys.argv[1:]:
        wrong += [f"{named(page)}: not what the tests' marks are now; run `make guide-tests`" for page in stale]
    elif not wrong:
        for page in stale:
            page.write_text(new[page][0])
    if wrong:
        sys.stderr.write("\n".join([*wrong, ""]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
