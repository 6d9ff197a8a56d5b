"""Ansible, imported once: what a test plays is a fork of it, as the imports take as long as most plays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Ansible:
    """Runs ansible-playbook, as often as it is told to; one play at a time.

    It reads its settings when it is imported, in the folder ``home``. What it says comes by files in ``place``. A play
    that is to have other settings in its environment gets an Ansible of its own.
    """

    def __init__(self, place: Path, home: Path) -> None:
        self._place = place
        self._home = home
        self._settings = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        self._imported_with = settings()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=home,
            env=os.environ | self._settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def play(self, words: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run it with these words in a folder, in the environment that there is now; return what it said."""
        if settings() != self._imported_with:
            own = Ansible(self._place, self._home)
            try:
                return own.play(words, cwd)
            finally:
                own.close()
        out, err = self._place / "out", self._place / "err"
        job = {"words": [*map(str, words)], "cwd": str(cwd), "environment": os.environ | self._settings}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job | {"out": str(out), "err": str(err)}) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess([*map(str, words)], code, out.read_text(), err.read_text())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def settings() -> dict[str, str]:
    """Return Ansible's settings in the environment that there is now."""
    return {name: value for name, value in os.environ.items() if name.startswith("ANSIBLE_")}


def serve() -> None:
    """Run what is asked for on standard input, a line of JSON each; answer with its exit code."""
    from ansible.cli import playbook  # noqa: PLC0415 - here only, and once

    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(job, playbook.main)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


def run(job: dict[str, Any], main: Callable[[list[str]], None]) -> None:
    """Be ansible-playbook, and end."""
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    for number, name in enumerate((os.devnull, job["out"], job["err"])):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600) if number else os.open(name, os.O_RDONLY)
        os.dup2(file, number)
        os.close(file)
    code = 1
    try:
        main(["ansible-playbook", *job["words"]])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - told, whatever it is
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not what is to be done at the end of the process that this is a copy of.
        os._exit(code)


if __name__ == "__main__":
    serve()
