"""Unpack the wheels of a release into a virtual environment, by hash, without running anything that they hold.

Usage: python3 -I unpack.py LIST VENV [ROOT]

LIST is requirements.txt of an unpacked release, or a part of it; this lies in its installer/, beside its wheels/. The
virtual environment is only written to. Its Python is not started, as that alone runs code of a wheel: a .pth file, or a
module named sitecustomize. With ROOT, what belongs into /VENV is written to ROOT/VENV.
"""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(next(HERE.glob("installer-*.whl"))), str(HERE)]

from installer import install  # noqa: E402 - it is in that wheel
from installer.destinations import SchemeDictionaryDestination  # noqa: E402
from installer.exceptions import InstallerError  # noqa: E402
from installer.records import InvalidRecordEntry  # noqa: E402
from installer.sources import WheelFile  # noqa: E402
from syntax import mistake  # noqa: E402

# What makes the folder an environment. bin/python is a link to the host's own, which a wheel could write to.
RESERVED = re.compile(r"pyvenv\.cfg|lib64|bin/([Pp]ython[0-9.]*|[Aa]ctivate.*)")


class Venv(SchemeDictionaryDestination):
    """A virtual environment, by its path when it is in use. A later wheel's file replaces an earlier one's."""

    def write_to_fs(self, scheme: Any, path: str, stream: Any, is_executable: bool) -> Any:
        """Write a file that is no part of the environment itself."""
        target = self._path_with_destdir(scheme, path)
        inside = target.relative_to(Path(self.destdir or "/", self.scheme_dict["data"].lstrip("/")))
        if RESERVED.fullmatch(str(inside)):
            raise ValueError(f"{inside} is the virtual environment's own")
        target.unlink(missing_ok=True)
        return super().write_to_fs(scheme, path, stream, is_executable)


def main() -> None:
    """Unpack what is listed."""
    listed, venv, root = Path(sys.argv[1]), Path(sys.argv[2]), next(iter(sys.argv[3:]), None)
    # Those that were built, not downloaded: of a library nobody here can correct a module that is for another Python.
    own = listed.with_name("own.txt")
    built = own.read_text() if own.exists() else ""
    paths = sysconfig.get_paths("venv", vars={name: str(venv) for name in ("base", "platbase", "installed_base")})
    for line in listed.read_text().splitlines():
        pin, wanted = line.split(" --hash=sha256:")
        name, version = pin.split("==")
        (wheel,) = (HERE.parent / "wheels").glob(f"{name}-{version}-*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != wanted:
            sys.exit(f"{wheel.name} is not the file that the release was built with: its hash is another one")
        if line in built and (found := mistake(wheel)):
            sys.exit(f"{name} has a module that is no Python {sysconfig.get_python_version()}: {found}. Correct it.")
        headers = str(venv / "include" / "site" / f"python{sysconfig.get_python_version()}" / name)
        scheme = {key: paths[key] for key in ("purelib", "platlib", "scripts", "data")} | {"headers": headers}
        target = Venv(
            scheme_dict=scheme,
            interpreter=str(venv / "bin" / "python"),
            script_kind="posix",
            bytecode_optimization_levels=[0],
            destdir=root,
            overwrite_existing=True,
        )
        try:
            with WheelFile.open(wheel) as source:
                install(source, target, {"INSTALLER": b"orbiter.fleet\n"})
        except (InstallerError, InvalidRecordEntry, AssertionError, OSError, ValueError) as error:
            sys.exit(f"{wheel.name} cannot be unpacked: {error}")


main()
