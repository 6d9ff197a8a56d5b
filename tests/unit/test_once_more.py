"""Tests that fail run once more, alone: what fails then, too, has failed."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools/pytest.sh"
TESTS = """
from pathlib import Path
import pytest

def seen(name):
    file = Path(__file__).with_name(name)
    before = file.exists()
    file.touch()
    return before

def test_sound(): assert not seen("sound")
def test_unsteady(): assert seen("unsteady")
"""


def run(directory: Path, tests: str) -> subprocess.CompletedProcess[str]:
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_it.py").write_text(tests)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        [str(SCRIPT), "test_it.py", "-n", "2"],
        cwd=directory,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_passes_alone_has_passed_and_the_rest_does_not_run_again(tmp_path):
    done = run(tmp_path, TESTS)
    assert done.returncode == 0, done.stdout
    assert "FAILED test_it.py::test_unsteady" in done.stdout
    assert "1 passed" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "more", ["def test_broken(): assert False", "@pytest.fixture\ndef no(): 1 / 0\ndef test_no(no): pass"]
)
def test_what_fails_again_has_failed(tmp_path, more):
    assert run(tmp_path, f"{TESTS}\n{more}\n").returncode == 1


def test_what_pytest_cannot_run_is_not_tried_again(tmp_path):
    done = run(tmp_path, "import nothing_of_this_name")
    assert done.returncode not in (0, 5)
