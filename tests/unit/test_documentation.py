"""`ansible-doc` shows every plugin and role; modules that ask Redis share their defaults.

Pages name tests that there are.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (CHECKOUT / "plugins/modules").glob("*.py"))
ROLES = sorted(path.parent.parent.name for path in (CHECKOUT / "roles").glob("*/tasks/main.yml"))


def shown(kind, *names):
    """Return what ansible-doc says of each name."""
    command = [Path(sys.executable).parent / "ansible-doc", "--json", "--type", kind]
    environment = os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".cache/collections")}
    done = subprocess.run(
        [*command, *(f"orbiter.fleet.{name}" for name in names)],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.removeprefix("orbiter.fleet."): said for name, said in json.loads(done.stdout).items()}


def plugins_of(kind):
    """Return the names of the plugins of a kind."""
    return sorted(path.stem for path in (CHECKOUT / "plugins" / kind).glob("*.py"))


@pytest.mark.parametrize("kind", ["module", "lookup", "filter"])
def test_every_plugin_is_shown_with_examples_and_results(kind):
    names = MODULES if kind == "module" else plugins_of(kind)
    found = shown(kind, *names)
    assert sorted(found) == names
    for said in found.values():
        assert said["doc"]["short_description"]
        assert yaml.safe_load(said["examples"])
        assert said["return"]


def test_every_inventory_plugin_is_shown_with_examples():
    names = plugins_of("inventory")
    found = shown("inventory", *names)
    assert sorted(found) == names
    for name, said in found.items():
        assert said["doc"]["short_description"]
        assert yaml.safe_load(said["examples"])["plugin"] == f"orbiter.fleet.{name}"


def test_every_callback_plugin_is_shown_with_an_example_that_names_it():
    names = plugins_of("callback")
    found = shown("callback", *names)
    assert sorted(found) == names
    for name, said in found.items():
        assert said["doc"]["short_description"]
        assert f"orbiter.fleet.{name}" in said["examples"]


def test_every_role_is_shown():
    found = shown("role", *ROLES)
    assert sorted(found) == ROLES
    assert all(said["entry_points"]["main"]["short_description"] for said in found.values())


def test_every_module_that_asks_redis_takes_the_defaults_of_the_action_group():
    asking = [name for name, said in shown("module", *MODULES).items() if "redis_url" in said["doc"].get("options", {})]
    groups = yaml.safe_load((CHECKOUT / "meta/runtime.yml").read_text())["action_groups"]
    assert sorted(groups["redis"]) == sorted(asking)


def test_lookups_of_the_pages_are_there_and_take_what_they_are_given():
    pages = "".join(path.read_text() for path in (CHECKOUT / "docs").rglob("*.md"))
    asked = re.findall(r"lookup\('((?:ansible|community|orbiter)\.\w+\.\w+)', ([^)]*)\)", pages)
    stores = {"community.general.onepassword", "community.hashi_vault.vault_kv2_get", "community.sops.sops"}
    names = {name for name, _words in asked}
    assert stores <= names
    command = [Path(sys.executable).parent / "ansible-doc", "--json", "--type", "lookup", *names]
    environment = os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".cache/collections")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    for name, words in asked:
        given = set(re.findall(r"\b(\w+)=", words))
        assert given <= set(said[name]["doc"]["options"]), f"{name}: {words}"


def test_every_test_that_a_page_names_is_there():
    pages = [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]
    named = {page.name: re.findall(r"`(test_\w+)`", page.read_text()) for page in pages}
    assert sum(len(names) for page, names in named.items() if page.startswith("secure")) > 50
    folders = ("tests", "worker/tests", "molecule")
    sources = [path.read_text() for folder in folders for path in (CHECKOUT / folder).rglob("test_*.py")]
    there = {name for text in sources for name in re.findall(r"\bdef (test_\w+)", text)}
    assert {page: gone for page, names in named.items() if (gone := sorted(set(names) - there))} == {}
