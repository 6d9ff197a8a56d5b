"""CONTRIBUTING.md: its first steps, typed as they stand there, lead to a green test; what it names exists."""

from __future__ import annotations

import re
import time

import pytest
from terminal import CHECKOUT, commands, new_clone, section

SECONDS = 60  # "less than a minute", with what pip has downloaded before


@pytest.mark.nightly  # CI itself runs on a new clone
def test_first_steps_of_a_contributor_lead_to_a_green_test(tmp_path):
    terminal = new_clone(tmp_path, downloads=True)
    clone, *steps = commands(section("CONTRIBUTING.md", "From a clone to a green test"))

    assert clone.startswith("git clone ")
    assert len(steps) == 4
    began = time.monotonic()
    for step in steps:
        said = terminal.done(step)
    assert time.monotonic() - began < SECONDS
    assert re.search(r"\b[1-9]\d* passed\b", said), said


def test_commands_of_the_table_name_what_exists():
    page = section("CONTRIBUTING.md", "Everything else")
    targets = re.findall(r"`make ([a-z-]+)", page)
    tests = re.findall(r"cd worker && \S+/pytest (\S+)`", page)
    scenarios = re.findall(r"SCENARIO=(\w+)", page)
    assert targets
    assert tests
    assert scenarios
    makefile = (CHECKOUT / "Makefile").read_text()
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
    assert [test for test in tests if not (CHECKOUT / "worker" / test).is_file()] == []
    assert [name for name in scenarios if not (CHECKOUT / "molecule" / name).is_dir()] == []


def test_links_of_contributing_and_of_the_decisions_lead_somewhere():
    broken = [
        f"{page.name}: {target}"
        for page in [CHECKOUT / "CONTRIBUTING.md", *(CHECKOUT / "docs/decisions").glob("*.md")]
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_index_lists_every_decision_by_its_title():
    folder = CHECKOUT / "docs/decisions"
    rows = re.findall(r"^\| \[(\d{4})\]\((\S+)\) \| (.+) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    records = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    titles = [path.read_text().splitlines()[0] for path in records]
    assert [path.name for path in records] == [row[1] for row in rows]
    assert titles == [f"# {row[0]}: {row[2]}" for row in rows]
    for path in records:
        headings = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences"], path.name
