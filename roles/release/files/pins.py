"""Pinned packages: read from lock files, merged into one set for a kind of host, and written for pip."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Wheels name the oldest C library they run with; Debian 12 has glibc 2.36.
GLIBC = range(36, 16, -1)


class BuildError(Exception):
    """Why nothing can be built, in words for the operator."""


@dataclass(frozen=True)
class Target:
    """A kind of host: the Python and the machine that wheels must fit."""

    python: str
    machine: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read a target as the role names it: 3.11-x86_64."""
        python, machine = text.split("-", 1)
        return cls(python, machine)

    def __str__(self) -> str:
        return f"{self.python}-{self.machine}"

    @property
    def version(self) -> tuple[int, ...]:
        """The Python as numbers."""
        return tuple(map(int, self.python.split(".")))

    @property
    def lock(self) -> str:
        """The stem of this Python's lock files."""
        return f"py{self.python.replace('.', '')}"

    @property
    def platforms(self) -> list[str]:
        """The platforms of wheels that run there, the best one first."""
        return [f"manylinux_2_{minor}_{self.machine}" for minor in GLIBC] + [f"manylinux2014_{self.machine}"]

    def tags(self) -> set[Tag]:
        """Return the tags of wheels that run there; what was built on such a host says linux only."""
        platforms = [*self.platforms, f"linux_{self.machine}"]
        own = cpython_tags(self.version, platforms=platforms)
        return {*own, *compatible_tags(self.version, f"cp{self.python.replace('.', '')}", platforms)}

    def markers(self) -> dict[str, str]:
        """Return what conditions in requirements ask for. Of a Python's patch releases the first: it needs the most."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "platform_machine": self.machine,
            "platform_system": "Linux",
            "platform_release": "",
            "platform_version": "",
            "sys_platform": "linux",
            "os_name": "posix",
            "extra": "",
        }


@dataclass(frozen=True)
class Pin:
    """One package of a lock."""

    name: str
    version: str
    hashes: frozenset[str]
    lock: Path


def read(lock: Path, target: Target) -> list[Pin]:
    """Read a lock file's packages for a target; whatever is not pinned by version and hash is refused."""
    return parse(lock.read_text(), lock, target)


def parse(text: str, lock: Path, target: Target) -> list[Pin]:
    """Read the packages of a text, as `read` does; `lock` is what messages call it."""
    pins = []
    text = re.sub(r"\\\n", " ", text)
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()  # noqa: PLW2901 - the same line, without its comment
        if not line:
            continue
        words, *hashes = re.split(r"\s+--hash=", line)
        try:
            wanted = Requirement(words)
        except InvalidRequirement:
            raise BuildError(
                f"{lock}: '{words}' is not name==version with a hash. Options such as an index belong into pip's own "
                "configuration on the controller (pip config set global.index-url …)"
            ) from None
        versions = list(wanted.specifier)
        exact = len(versions) == 1 and versions[0].operator == "==" and not versions[0].version.endswith(".*")
        if not exact or not hashes:
            raise BuildError(
                f"{lock}: {words} is not pinned: each line must say name==version --hash=sha256:…, "
                "as `uv pip compile --generate-hashes` and `pip-compile --generate-hashes` write it"
            )
        if wanted.marker is None or wanted.marker.evaluate(target.markers()):
            pins.append(Pin(canonicalize_name(wanted.name), versions[0].version, frozenset(hashes), lock))
    return pins


def merge(pins: Iterable[Pin]) -> dict[str, Pin]:
    """Return one pin a package; two locks that want different versions of one are refused."""
    merged: dict[str, Pin] = {}
    for pin in pins:
        first = merged.setdefault(pin.name, pin)
        if first.version != pin.version:
            raise BuildError(
                f"{pin.lock} pins {pin.name}=={pin.version}, and {first.lock} pins {first.version}: a release has "
                f"one version of each package. Make yours with --constraints {first.lock}"
            )
        merged[pin.name] = replace(first, hashes=first.hashes | pin.hashes)
    return merged


def requirements(pins: Iterable[Pin]) -> str:
    """Return pins as pip reads them."""
    return "".join(
        f"{pin.name}=={pin.version} {' '.join(f'--hash={value}' for value in sorted(pin.hashes))}\n"
        for pin in sorted(pins, key=lambda pin: pin.name)
    )
