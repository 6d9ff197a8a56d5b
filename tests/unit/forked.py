"""Ansible, imported once: what a test plays is a fork of it, as the imports take as long as most plays."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Ansible:
    """Runs ansible-playbook, as often as it is told to; one play at a time.

    It reads its settings when it is imported, in the folder ``home``. What it says comes by files in ``place``. A play
    that is to have other settings in its environment gets another Ansible, kept for more plays with those.
    """

    def __init__(self, place: Path, home: Path) -> None:
        self._place = place
        self._home = home
        self._settings = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        self._imported_with = settings()
        self._other: Ansible | None = None
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
            if self._other is None or settings() != self._other._imported_with:
                self._close_other()
                self._other = Ansible(self._place, self._home)
            return self._other.play(words, cwd)
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
        self._close_other()
        self._process.communicate()

    def _close_other(self) -> None:
        if self._other is not None:
            self._other.close()
            self._other = None


def settings() -> dict[str, str]:
    """Return Ansible's settings in the environment that there is now."""
    return {name: value for name, value in os.environ.items() if name.startswith("ANSIBLE_")}


def serve() -> None:
    """Run what is asked for on standard input, a line of JSON each; answer with its exit code."""
    from ansible.cli import playbook  # noqa: PLC0415 - here only, and once

    warm()
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(job, playbook.main)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


# What plays of the tests use, of what Ansible would look for by its name.
PLUGINS = {
    "action": "assert command copy debug fail include_vars normal set_fact template validate_argument_spec",
    "cache": "memory",
    "inventory": "auto host_list ini script toml yaml",
    "lookup": "env file template vars",
    "strategy": "linear",
    "vars": "host_group_vars",
}


def warm() -> None:
    """Import and read what most plays need: each, and each of its processes, one a task and host, would do so anew."""
    from ansible import cli  # noqa: PLC0415 - here only, and once
    from ansible.executor import module_common  # noqa: F401, PLC0415 - what modules are sent with
    from ansible.plugins import loader  # noqa: PLC0415

    loader.init_plugin_loader()
    # Which each play would do, and be warned that it was done.
    cli.init_plugin_loader = lambda *_paths: None
    loader.action_loader.add_directory(str(Path(__file__).parent / "actions"))
    own = Path(import_module("ansible_collections.orbiter.fleet").__path__[0])
    for kind, names in PLUGINS.items():
        plugins = getattr(loader, f"{kind}_loader")
        for name in names.split():
            # Ansible keeps those of variables, and would take a class for one of them.
            assert plugins.get(f"ansible.builtin.{name}", class_only=kind != "vars") is not None, name
        for path in (own / "plugins" / kind).glob("*.py") if kind in ("action", "lookup") else ():
            assert plugins.get(f"orbiter.fleet.{path.stem}", class_only=True) is not None, path
    for kind in ("become", "callback", "connection", "shell"):  # of which each play reads all
        assert list(getattr(loader, f"{kind}_loader").all(class_only=True))
    for name in ("bool", "orbiter.fleet.unfit_host"):
        assert loader.filter_loader.get(name) is not None
    assert loader.test_loader.get("match") is not None
    import_module("ansible_collections.orbiter.fleet.plugins.plugin_utils._names").known_names()
    read(own)
    # Nothing of all this is looked at again, for what may be thrown away.
    gc.collect()
    gc.freeze()


def read(collection: Path) -> None:
    """Read roles and playbooks, as if every play had done so already."""
    try:
        from ansible._internal._datatag._tags import Origin  # noqa: PLC0415 - here only, and once
        from ansible.module_utils._internal._datatag import _AnsibleTaggedStr  # noqa: PLC0415
        from ansible.parsing.dataloader import DataLoader  # noqa: PLC0415
    except ImportError:  # before ansible-core 2.19, which reads otherwise
        return
    # What was read is copied whenever it is used; these never change, and are most of it.
    Origin.__deepcopy__ = _AnsibleTaggedStr.__deepcopy__ = lambda one, _memo: one
    reader, make = DataLoader(), DataLoader.__init__
    playbooks = Path(__file__).parents[2] / "playbooks"
    for path in (*collection.glob("roles/*/*/*.yml"), *playbooks.glob("*.yml"), *playbooks.glob("roles/*/*/*.yml")):
        if "files" not in path.parts:
            reader.load_from_file(str(path), unsafe=True, trusted_as_template=True)

    def knowing(one: DataLoader) -> None:
        make(one)
        one._FILE_CACHE.update(reader._FILE_CACHE)

    DataLoader.__init__ = knowing


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
