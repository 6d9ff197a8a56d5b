"""What others may use of a role is documented, entry by entry; what is private to a role stays in it."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import pytest
import yaml
from plays import tasks

CHECKOUT = Path(__file__).parents[3]
ROLES = sorted(path.name for path in (CHECKOUT / "roles").iterdir() if (path / "tasks").is_dir())
# Not of a role: that a playbook has checked the inventory; and labels of Prometheus.
SHARED = {"__fleet_checked"}
PROMETHEUS = {"__address__", "__param_target"}
SECRET = re.compile(r"password|token|credentials|_users$|_env$|_redis_url$|slack_url$")


@lru_cache
def entries(role):
    """Return the entry points that a role documents."""
    return yaml.safe_load((CHECKOUT / f"roles/{role}/meta/argument_specs.yml").read_text())["argument_specs"]


def used():
    """Yield where a role is used, by a playbook or another role, and by which entry point."""
    for task in tasks():
        for name, given in task.own.items():
            # `derived` is the playbooks' own, and nobody else's to use.
            if name.rpartition(".")[2] in {"include_role", "import_role"} and given["name"] != "derived":
                yield task.place, given["name"].removeprefix("orbiter.fleet."), given.get("tasks_from", "main")


def files_of(role, entry):
    """Return the files of tasks that an entry point enters."""
    found, left = {}, [CHECKOUT / f"roles/{role}/tasks/{entry}.yml"]
    while left:
        path = left.pop()
        found[path] = "".join(line for line in path.open() if not line.lstrip().startswith("#"))
        named = re.findall(r"(?:include_tasks|import_tasks|file): (\S+\.yml)", found[path])
        left += {path.parent.joinpath(name).resolve() for name in named} - found.keys()
    return found


def test_every_entry_point_that_is_used_is_documented():
    using = list(used())
    assert len(using) > 40  # they are found
    assert [place for place, role, entry in using if entry not in entries(role)] == []


@pytest.mark.parametrize("role", ROLES)
def test_an_entry_point_has_its_tasks_and_says_what_it_does(role):
    for entry, said in entries(role).items():
        assert (CHECKOUT / f"roles/{role}/tasks/{entry}.yml").exists()
        assert said["short_description"]
        assert said["description"]


@pytest.mark.parametrize("role", ROLES)
def test_an_entry_point_names_the_variables_that_its_tasks_read(role):
    known = entries(role)["main"]["options"]
    for entry, said in entries(role).items():
        text = " ".join(files_of(role, entry).values())
        read = {name for name in re.findall(rf"(?<![.\w]){role}_\w+", text) if name in known}
        assert read <= said["options"].keys(), entry
        assert all(option == known.get(name, option) for name, option in said["options"].items()), entry


@pytest.mark.parametrize("role", ROLES)
def test_what_is_private_to_a_role_is_read_by_no_other(role):
    files = [path for path in (CHECKOUT / "roles" / role).rglob("*") if path.suffix in {".yml", ".j2"}]
    named = {name for path in files for name in re.findall(r"\b__[a-z]+_\w+", path.read_text())}
    assert {name for name in named if not name.startswith(f"__{role}_")} - SHARED - PROMETHEUS == set()


@pytest.mark.parametrize("role", ROLES)
def test_a_variable_that_holds_a_secret_says_so(role):
    options = entries(role)["main"]["options"]
    assert [name for name, option in options.items() if SECRET.search(name) and not option.get("no_log")] == []
