"""README's and the inventory pages' first steps, typed as they stand there, in a new clone and with an empty home."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from terminal import CHECKOUT, commands, new_clone, section

MINUTES = 3  # from a clone to the answer of an agent of one's own


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


# What a user has in the checkout: an environment, an agent, keys. Nobody installs or publishes it with the collection.
LEFT_OUT = ("venv/lib/python/site.py", "hello.py", "inventories/fleet/.redis-tls/ca.key", "roles/redis/tasks/notes.yml")


@pytest.fixture(scope="module")
def installed(terminal):
    """Take README's steps as far as they need no host."""
    steps = re.findall(r"`((?:make|cp|ansible-\w+) [^`]+)`", section("README.md", "Use it").partition("\n| ")[0])
    assert [step.split()[0] for step in steps] == ["make", "cp", "ansible-playbook"]
    install, copy, play = steps
    for name in LEFT_OUT:
        (terminal.clone / name).parent.mkdir(parents=True, exist_ok=True)
        (terminal.clone / name).touch()
    assert "was installed successfully" in terminal.done(install)
    terminal.done(copy)
    return play


def test_the_collection_that_was_built_is_installed_into_an_empty_home(terminal, installed):
    place = Path(terminal.environment["HOME"]) / ".ansible/collections/ansible_collections/orbiter/fleet"
    assert (place / "MANIFEST.json").is_file()
    assert not place.is_symlink()
    assert [name for name in LEFT_OUT if (place / name).exists()] == []
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


@pytest.mark.nightly  # downloads what the worker needs
def test_python_in_60_seconds_leads_to_an_answer_within_minutes(tmp_path):
    terminal = new_clone(tmp_path, downloads=True)
    text = section("README.md", "Python in 60 seconds")
    make, install, dev, run = commands(text)
    (script,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (terminal.clone / run.split()[1]).write_text(script)

    began = time.monotonic()
    terminal.done(f"{make} && {install}")
    log = tmp_path / "dev.log"
    with log.open("wb") as output:
        words = ["bash", "-c", f". venv/bin/activate && exec {dev}"]
        process = subprocess.Popen(
            words, cwd=terminal.clone, env=terminal.environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        while "is ready after" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - began < 60 * MINUTES, log.read_text()
            time.sleep(0.1)
        change, export = re.findall(r"^  (cd .*|export .*)$", log.read_text(), flags=re.MULTILINE)
        said = terminal.done(f"{change} && {export} && {run}").replace("\r", "")
        # A text comes in one event or in several.
        said = re.sub(r"(?:^text\n)+", "text\n", said, flags=re.MULTILINE)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)

    assert said.splitlines() == re.findall(rf"\$ {re.escape(run)}\n(.*?)```", text, flags=re.DOTALL)[0].splitlines()
    assert time.monotonic() - began < 60 * MINUTES
