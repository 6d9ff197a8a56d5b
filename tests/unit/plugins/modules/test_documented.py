"""Every module says what it does, with examples, keeps to check mode and hides what is secret."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[4]
MODULES = sorted(CHECKOUT.glob("plugins/modules/*.py"))
NAMES = [path.stem for path in MODULES]
SECRET = re.compile(r"password|passwd|passphrase|secret|token|credential|private|_url$|^(login|key)$")
# Names like that which hold no secret: a folder.
HARMLESS = {("temporal_info", "login")}


@pytest.fixture(scope="module")
def shown():
    """Return what `ansible-doc` shows of every module."""
    command = [Path(sys.executable).parent / "ansible-doc", "--type=module", "--json"]
    done = subprocess.run(
        [*command, *(f"orbiter.fleet.{name}" for name in NAMES)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def constructed(name):
    """Return the call of AnsibleModule in a module, or None in one that is an action plugin's documentation."""
    tree = ast.parse((CHECKOUT / f"plugins/modules/{name}.py").read_text())
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "AnsibleModule"
    ]
    return calls[0] if calls else None


def options_of(node):
    """Yield name and definition of each option of an argument spec, those of options inside too."""
    for one in ast.walk(node):
        pairs = list(zip(one.keys, one.values, strict=True)) if isinstance(one, ast.Dict) else []
        for key, value in pairs:
            if isinstance(key, ast.Constant) and isinstance(value, ast.Dict):
                yield key.value, {part.value for part in value.keys}
        if isinstance(one, ast.keyword) and isinstance(one.value, ast.Dict):
            yield one.arg, {getattr(part, "value", "") for part in one.value.keys}


@pytest.mark.parametrize("name", NAMES)
def test_ansible_doc_shows_what_it_does_with_examples_and_answers(shown, name):
    page = shown[f"orbiter.fleet.{name}"]
    assert page["doc"]["description"]
    assert page["doc"]["version_added"]
    assert page["return"]
    tasks = yaml.safe_load(page["examples"])
    assert any(f"orbiter.fleet.{name}" in task for task in tasks), "no example uses it"


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_to_check_mode(shown, name):
    attributes = shown[f"orbiter.fleet.{name}"]["doc"]["attributes"]
    assert attributes["check_mode"]["support"] in {"full", "partial"}  # with what it cannot foresee
    assert "diff_mode" in attributes
    call = constructed(name)
    if call is None:
        assert (CHECKOUT / f"plugins/action/{name}.py").exists()
    else:
        (found,) = (word.value for word in call.keywords if word.arg == "supports_check_mode")
        assert found.value is True


@pytest.mark.parametrize("path", [*MODULES, *CHECKOUT.glob("plugins/module_utils/*.py")], ids=lambda path: path.stem)
def test_options_that_hold_secrets_are_hidden(path):
    every = [(name, parts) for name, parts in options_of(ast.parse(path.read_text())) if "type" in parts]
    bare = {name for name, parts in every if SECRET.search(name) and "no_log" not in parts}
    assert {name for name in bare if (path.stem, name) not in HARMLESS} == set()


def test_secrets_are_found():
    every = list(options_of(ast.parse((CHECKOUT / "plugins/module_utils/_command.py").read_text())))
    assert ("redis_url", {"type", "no_log"}) in every


def test_the_page_of_modules_names_every_one():
    page = (CHECKOUT / "docs/modules.md").read_text()
    assert [name for name in NAMES if f"orbiter.fleet.{name}`" not in page] == []
