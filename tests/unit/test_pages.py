"""Pages are short, their lines fit a terminal, and a cell of a table holds no paragraph."""

import contextlib
import io
import re

import pytest
from terminal import CHECKOUT

PAGES = {
    path.relative_to(CHECKOUT).as_posix(): path.read_text()
    for path in [
        *(CHECKOUT / "docs").rglob("*.md"),
        *(CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *(CHECKOUT / folder / "README.md" for folder in ("worker", "inventories")),
    ]
}
WORDS, COLUMNS, CELL = 1200, 110, 200


def prose(text):
    """Return a page's lines without blocks of code."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()


def test_a_page_has_few_words():
    long = {name for name, text in PAGES.items() if len(text.split()) > WORDS}
    assert long == set(), f"split these: more than {WORDS} words"


def test_lines_fit_a_terminal():
    long = [
        f"{name}: {line}"
        for name, text in PAGES.items()
        for line in prose(text)
        if len(line) > COLUMNS and not line.lstrip().startswith(("|", "![")) and " " in line.strip()
    ]
    assert long == []


def test_lines_of_code_fit_a_terminal_too():
    long = []
    for name, text in PAGES.items():
        for kind, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
            # A digest, or a row that Prometheus reads, is one word.
            long += [
                f"{name}: {line}"
                for line in (block.splitlines() if kind != "mermaid" else [])
                if len(line) > COLUMNS and max(map(len, line.split())) < COLUMNS / 2
            ]
    assert long == []


def test_a_cell_of_a_table_holds_no_paragraph():
    long = []
    for name, text in PAGES.items():
        rows = [line for line in prose(text) if line.startswith("|")]
        # What a link leads to is not shown.
        cells = [re.sub(r"\]\([^)]*\)", "]", cell) for row in rows for cell in re.split(r"(?<!\\)\|", row)]
        long += [f"{name}: {cell.strip()}" for cell in cells if len(cell.strip()) > CELL]
    assert long == [], f"a cell has {CELL} characters at most: write what is longer below the table"


def measured(name):
    """Return the rows of the table of peers that a page has, by peer."""
    table = PAGES[name].partition("\n| | drain, tasks/s |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    # Tasks drained, tasks submitted at once, wait; a row may have none of these.
    return {row[0]: row[1:4] for row in rows if any(row[1:4])}


def test_the_comparison_has_the_numbers_that_were_measured():
    peers = measured("docs/performance-peers.md")
    assert {"ours", "ours, isolated", "bullmq", "dramatiq"} <= set(peers)
    assert measured("docs/compared.md") == peers


@pytest.mark.parametrize("name", ["docs/sizing.md"])
def test_what_a_page_computes_is_what_it_shows(name):
    code, shown = (
        re.findall(rf"^```{kind}\n(.*?)^```", PAGES[name], re.DOTALL | re.MULTILINE)[0] for kind in ("python", "text")
    )
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, name, "exec"), {})
    assert output.getvalue() == shown
