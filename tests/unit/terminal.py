"""A new user's terminal, and the commands that the pages tell this user to type."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PASSWORD = "of the vault"
WITHIN = 300


class Terminal:
    """A shell's terminal in a new clone, with nothing of this checkout's or this user's settings."""

    def __init__(self, home: Path, clone: Path) -> None:
        self.clone = clone
        kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = kept | {"HOME": str(home), "PATH": path, "TERM": "dumb", "ANSIBLE_NOCOLOR": "1"}

    def type(self, line: str) -> tuple[int, str]:
        """Type a line, and the vault's password wherever it is asked for; return exit code and output."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.clone)
            os.execve("/bin/bash", ["bash", "-c", line], self.environment)
        said, asked, deadline = "", 0, time.monotonic() + WITHIN
        while True:
            assert time.monotonic() < deadline, said
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                piece = os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # the other end has closed
                break
            if not piece:
                break
            said += piece
            prompts = len(re.findall(r"[Vv]ault password(?: \([^)]*\))?: ", said))
            os.write(terminal, f"{PASSWORD}\n".encode() * (prompts - asked))
            asked = prompts
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(terminal)
        return code, said

    def done(self, line: str) -> str:
        """Type a line that must succeed; return its output."""
        code, said = self.type(line)
        assert code == 0, f"{line}\n{said}"
        return said


def new_clone(top, *, downloads=False):
    """Return a terminal in a clone of this checkout below a folder, with what is not committed yet.

    With ``downloads`` it has no program of this checkout, and pip as the user has set it up: what has been downloaded
    once need not be asked for again.
    """
    home, clone = top / "home", top / "orbiter"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], check=True)
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=CHECKOUT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, files):
        source, target = CHECKOUT / name, clone / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.exists():
            shutil.copy2(source, target)
        else:
            target.unlink(missing_ok=True)
    # What is built is made of what Git knows.
    subprocess.run(["git", "add", "--all"], cwd=clone, check=True)
    terminal = Terminal(home, clone)
    if downloads:
        words = [sys.executable, "-m", "pip", "cache", "dir"]
        cache = subprocess.run(words, check=True, text=True, capture_output=True).stdout
        terminal.environment["PIP_CACHE_DIR"] = cache.strip()
        terminal.environment |= {
            name: value for name, value in os.environ.items() if re.match("PIP_|SSL_|.*_proxy$", name)
        }
        terminal.environment["PATH"] = os.environ["PATH"].replace(f"{CHECKOUT}/.venv/bin:", "")
    return terminal


def section(page, heading):
    """Return what stands below a heading."""
    text = (CHECKOUT / page).read_text()
    return re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]


def commands(text):
    """Return the commands of a section's consoles."""
    blocks = [re.sub(r"\\\n\s*", "", block) for block in re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)]
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
