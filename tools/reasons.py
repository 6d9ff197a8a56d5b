"""Says which tests failed and why, from what pytest has printed: the end of each test's error below its name.

Usage: reasons.py LOG. Where no test has failed it prints nothing.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent

TESTS, LINES, WIDTH = 20, 12, 600
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# Between the places of one traceback stands a line of "_ _ _ _".
TITLE = re.compile(r"_+ (?=.*[^_ ])(.+?) _+")
END = re.compile(r"={3,}.*|-+ (Captured|live log) .+ -+")
GROUP = re.compile(r" *\+(-\+)?-{4,}.*")
FRAME = re.compile(r'  File "(?:.*/)?(.+)", line (\d+), in (.+)')
SUMMARY = re.compile(r"(FAILED|ERROR) (\S.*)")


class Error:
    """The error under one title: of a group its innermost ones, of a chain the last one."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._within: list[list[str]] = [[]]
        self._apart = self._over = self._in_frames = False

    def read(self, line: str) -> None:
        """Take in the next line of the report."""
        if END.fullmatch(line):
            self._over = True
        elif self._over:
            return
        elif line.startswith("E  "):
            if self._apart:
                self._lines = []
            self._apart = False
            self._lines.append(line[1:])
            return
        elif marker := GROUP.fullmatch(line):
            # What a group itself is called stands before the first of its errors.
            if marker[1]:
                self._within[-1] = []
            else:
                self._within.append([])
        elif edge := re.match(r" +\| ?", line):
            self._read_within(line[edge.end() :])
        self._apart = True

    def _read_within(self, text: str) -> None:
        if text.startswith(("Traceback (most", "Exception Group Traceback")):
            self._within[-1], self._in_frames = [], True
        elif self._in_frames and (frame := FRAME.fullmatch(text)):
            # The first one says which of the tasks it was.
            if not self._within[-1]:
                self._within[-1].append("in {2}, {0}:{1}".format(*frame.groups()))
        elif not (self._in_frames and text.startswith("  ")):
            self._in_frames = False
            self._within[-1].append(text)

    @property
    def lines(self) -> list[str]:
        """What to print of it: the beginning, which names it, and the end."""
        found = [line for within in self._within for line in within] or dedent("\n".join(self._lines)).split("\n")
        found = [line.rstrip() for line in found if line.strip()]
        if len(found) > LINES:
            found = [*found[: LINES - 4], "...", *found[-3:]]
        return [line if len(line) <= WIDTH else line[: WIDTH - 3] + "..." for line in found]


def reasons(log: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield ``FAILED`` or ``ERROR`` with a test's id, and the lines of its error; each test once."""
    errors: defaultdict[str, list[Error]] = defaultdict(list)
    error, told = Error(), set()
    for raw in log:
        line = COLOUR.sub("", raw.rstrip("\r\n"))
        if title := TITLE.fullmatch(line):
            error = Error()
            errors[title[1]].append(error)
        elif summary := SUMMARY.fullmatch(line):
            found = _titled(errors, *summary.groups())
            what, said = _halves(summary[2]) if found is None else (found[0], "")
            lines = found[1].lines if found else []
            if (summary[1], what) not in told:
                told.add((summary[1], what))
                yield f"{summary[1]} {what}", lines or [text for text in [said] if text]
        else:
            error.read(line)


def _halves(text: str, between: str = " - ") -> tuple[str, str]:
    head, found, tail = text.partition(between)
    return head, tail if found else ""


def _titled(errors: dict[str, list[Error]], kind: str, said: str) -> tuple[str, Error] | None:
    """Find the error of which the summary says ``file::Class::test[value] - how it ended``."""
    ends = [match.start() for match in re.finditer(" - ", said)]
    for end in [len(said), *reversed(ends)]:
        what = said[:end]
        path, test = _halves(what, "::")
        name, bracket, value = test.partition("[")
        title = name.replace("::", ".") + bracket + value
        of_errors = [f"ERROR collecting {path}", *(f"ERROR at {when} of {title}" for when in ("setup", "teardown"))]
        for one in [title] if kind == "FAILED" else of_errors:
            if errors.get(one):
                # The summary has tests of one name in the order of their reports.
                return what, errors[one].pop(0)
    return None


def main() -> None:
    """Print what a log says."""
    with Path(sys.argv[1]).open(encoding="utf-8", errors="replace") as log:
        found = list(reasons(log))
    for test, lines in found[:TESTS]:
        sys.stdout.write("\n".join([test, *(f"    {line}" for line in lines), ""]))
    if len(found) > TESTS:
        sys.stdout.write(f"... and {len(found) - TESTS} more\n")


if __name__ == "__main__":
    main()
