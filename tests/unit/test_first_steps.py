"""README's and the inventory pages' first steps, typed as they stand there, in a new clone and with an empty home."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from terminal import CHECKOUT, commands, new_clone, section


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    """Return a terminal in a clone of this checkout, with what is not committed yet."""
    terminal = new_clone(tmp_path_factory.mktemp("new-user"))
    # What `make setup` would download is here already.
    (terminal.clone / ".venv").symlink_to(Path(sys.prefix))
    return terminal


def write_files(terminal, text):
    """Write each file that a section shows, which its first line names."""
    for name, content in re.findall(r"```yaml\n# (inventories/\S+)\n(.*?)```", text, flags=re.DOTALL):
        (terminal.clone / name).write_text(content)


@pytest.fixture(scope="module")
def installed(terminal):
    """Take README's steps as far as they need no host."""
    steps = re.findall(r"`((?:make|cp|ansible-\w+) [^`]+)`", section("README.md", "Use it").partition("\n| ")[0])
    assert [step.split()[0] for step in steps] == ["make", "cp", "ansible-playbook"]
    install, copy, play = steps
    assert "was installed successfully" in terminal.done(install)
    terminal.done(copy)
    return play


def test_the_collection_that_was_built_is_installed_into_an_empty_home(terminal, installed):
    place = Path(terminal.environment["HOME"]) / ".ansible/collections/ansible_collections/orbiter/fleet"
    assert (place / "MANIFEST.json").is_file()
    assert not place.is_symlink()
    shown = terminal.done("ansible-galaxy collection list orbiter.fleet")
    assert str(place.parents[2]) in shown.replace("\r\n", "")
    terminal.done(f"{installed.replace('--ask-vault-pass', '')} --syntax-check")
    # From any directory, where the user says, over an earlier one.
    mine = place.parents[4] / "mine"
    there = shutil.copytree(place, mine / "ansible_collections/orbiter/fleet")
    (there / "stale").touch()
    assert "was installed successfully" in terminal.done(
        f"cd / && ANSIBLE_COLLECTIONS_PATH={mine} make -C {terminal.clone} install"
    )
    assert (there / "MANIFEST.json").is_file()
    assert not (there / "stale").exists()


def test_the_first_inventory_goes_as_far_as_hosts_that_do_not_exist(terminal, installed):
    first = section("docs/inventory.md", "The first one")
    copy, make, encrypt, check, play = commands(first)
    shutil.rmtree(terminal.clone / "inventories/mine")
    terminal.done(copy)
    write_files(terminal, first)
    terminal.done(make)
    terminal.done(encrypt)
    vault = terminal.clone / "inventories/mine/group_vars/all/vault.yml"
    assert vault.read_text().startswith("$ANSIBLE_VAULT;")
    for line in (check, play, installed):
        code, said = terminal.type(line)
        # The inventory is right: that is looked at first, and the play has come to the hosts.
        assert code == 4, said
        assert "PLAY [Look at the hosts]" in said
        assert "UNREACHABLE" in said


def test_passwords_and_settings_of_the_first_inventory_take_effect(terminal, installed):
    agents = (CHECKOUT / "docs/inventory-agents.md").read_text()
    write_files(terminal, agents)
    names = "orbiter_redis_password, orbiter_redis_users.client.password, worker_allow_imports, release_app"
    said = terminal.done(
        "ansible worker1.example.net -i inventories/mine --ask-vault-pass --connection local"
        f" -m ansible.builtin.debug -a 'msg={{{{ [{names}] | to_json }}}}'"
    )
    first, second = re.findall(r"\b[0-9a-f]{48}\b", said)
    assert first != second
    assert '["my_agents"]' in said.replace("\\", "")
    assert "inventories/mine/../../my-agents" in said
