"""Packages come and go by one role, which waits for other programs that install."""

from __future__ import annotations

import re

from plays import tasks

INSTALLERS = re.compile(r"(^|\.)(apt|apt_\w+(?<!_info)|package|dpkg_selections|deb822_repository|dnf|pip)$")
COMMANDS = re.compile(r"\b(apt|apt-get|aptitude|dpkg)\s+(-\S+\s+)*(install|remove|purge|update|upgrade|--configure)\b")


def test_only_the_role_packages_installs_and_removes():
    using = [task.place for task in tasks() if any(INSTALLERS.search(key) for key in task.own)]
    assert [place for place in using if not place.startswith("roles/packages/")] == []
    assert len(using) == 1  # they are found


def test_no_command_installs_or_removes():
    commands = [
        task.place
        for task in tasks()
        for key, value in task.own.items()
        if key.rpartition(".")[2] in {"command", "shell", "script", "raw"} and COMMANDS.search(str(value))
    ]
    assert commands == []
