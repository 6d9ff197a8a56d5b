"""A value means the same however it is written: -e NAME=no and an INI inventory give text, and text is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
import yaml
from jinja2 import nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[3]
ROLES = sorted(path.parent.parent for path in (CHECKOUT / "roles").glob("*/meta/argument_specs.yml"))
PLAYBOOKS = [*(CHECKOUT / "playbooks").glob("*.yml"), *(CHECKOUT / "examples/playbooks").glob("*.yml")]
# Keys whose value is an expression without braces.
CONDITIONS = {"when", "that", "failed_when", "changed_when", "until"}
# What playbooks read from a test host's variables, and give each other.
OTHERS = {"testhost_docker", "orbiter_image_where_needed"}
COMPUTES = (nodes.Compare, nodes.BinExpr, nodes.UnaryExpr, nodes.Call)
ENVIRONMENT = jinja2.Environment(autoescape=False)


def options(of: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return each option of an argument spec by its name, those inside others too."""
    for name, option in of.items():
        yield name, option
        yield from options(option.get("options", {}))


def specs(source: str) -> Iterator[dict[str, Any]]:
    """Return the argument specs that a playbook's own tasks check."""
    for play in yaml.safe_load(source):
        for task in play.get("tasks", []):
            yield task.get("ansible.builtin.validate_argument_spec", {}).get("argument_spec", {})


KINDS: dict[str, set[str]] = {}
for role in ROLES:
    for entry in yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"].values():
        for option_name, option_spec in options(entry["options"]):
            KINDS.setdefault(option_spec["type"], set()).add(option_name)
# -e NAME=true in the head of a playbook, or in the documentation.
FLAGS = {
    name
    for path in [*PLAYBOOKS, *(CHECKOUT / "docs").glob("*.md"), CHECKOUT / "README.md"]
    for name in re.findall(r"-e (\w+)=(?:true|false|yes|no)\b", path.read_text())
}
BOOLEANS = KINDS["bool"] | FLAGS | OTHERS
NUMBERS = KINDS["int"] | KINDS["float"]
LISTS = KINDS["list"]


def strings(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Return every string of a document with the key that it is under."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from strings(value, str(name))
    elif isinstance(tree, list):
        for value in tree:
            yield from strings(value, key)
    elif isinstance(tree, str):
        yield key, tree


def expressions() -> Iterator[tuple[str, str, nodes.Template]]:
    """Return every expression of roles and playbooks, parsed, with its place and the key that it is under."""
    for path in sorted((CHECKOUT / "roles").glob("*/templates/**/*.j2")):
        yield str(path.relative_to(CHECKOUT)), "", ENVIRONMENT.parse(path.read_text())
    kinds = ("tasks", "handlers", "vars", "defaults")
    parts = [path for kind in kinds for path in (CHECKOUT / "roles").glob(f"*/{kind}/**/*.yml")]
    for path in sorted([*parts, *PLAYBOOKS, *(CHECKOUT / "playbooks/roles").rglob("*.yml")]):
        for key, text in strings(yaml.safe_load(path.read_text())):
            bare = key in CONDITIONS
            if bare or "{{" in text or "{%" in text:
                source = "{{ (" + text + ") }}" if bare and "{{" not in text else text
                yield f"{path.relative_to(CHECKOUT)}: {text}", key, ENVIRONMENT.parse(source)


def uses(node: nodes.Node, above: tuple[nodes.Node, ...] = ()) -> Iterator[tuple[str, tuple[nodes.Node, ...]]]:
    """Return each name that an expression reads, of a variable, an attribute or a key, with what is around it."""
    if isinstance(node, nodes.Name) and node.ctx == "load":
        yield node.name, above
    elif isinstance(node, nodes.Getattr):
        yield node.attr, above
    elif isinstance(node, nodes.Const) and isinstance(node.value, str):
        inside = above[-1]
        # A key, a filter's keyword, or what .get() and lookup() are asked for.
        yield node.value, above[:-1] if isinstance(inside, (nodes.Getitem, nodes.Keyword, nodes.Call)) else above
    for child in node.iter_child_nodes():
        yield from uses(child, (*above, node))


EXPRESSIONS = list(expressions())


def filters(above: tuple[nodes.Node, ...]) -> list[str]:
    """Return what a value passes through, from the inside, until something is computed of it."""
    passed = []
    for node in reversed(above):
        if not isinstance(node, nodes.Filter):
            break
        if node.name != "map":
            passed.append(node.name)
        elif node.args:
            passed += [first.value for first in node.args[:1] if isinstance(first, nodes.Const)]
    return passed


def is_handed_on(above: tuple[nodes.Node, ...]) -> bool:
    """Tell whether a value is all of an expression, but for a default."""
    return all(isinstance(node, (nodes.Template, nodes.Output, nodes.Filter)) for node in above) and not (
        set(filters(above)) - {"default"}
    )


def test_the_booleans_are_known():
    assert {"worker_install_docker", "redis_remove_data", "orbiter_teardown", "orbiter_rotate_keep_old"} <= BOOLEANS
    assert "dynamic" in BOOLEANS


def test_every_boolean_is_read_through_the_bool_filter():
    wrong = []
    for place, key, tree in EXPRESSIONS:
        for name, above in uses(tree):
            if name not in BOOLEANS:
                continue
            # What is handed on under another option's name is read by that one.
            passed = [one for one in filters(above) if one != "default"]
            if passed[:1] != ["bool"] and not (is_handed_on(above) and key in BOOLEANS):
                wrong.append(f"{name} in {place}")
    assert wrong == []


def test_every_number_is_read_as_one_where_it_is_compared_or_computed_with():
    wrong = [
        f"{name} in {place}"
        for place, dummy, tree in EXPRESSIONS
        for name, above in uses(tree)
        if name in NUMBERS
        and not {"int", "float"} & set(filters(above))
        and isinstance([node for node in above if not isinstance(node, nodes.Filter)][-1], COMPUTES)
    ]
    assert wrong == []


REFUSED_AS_TEXT = {"redis_settings", "redis_members", "redis_namespaces", "queues", "monitoring_scrape_configs"}


@pytest.mark.parametrize("name", sorted(LISTS - REFUSED_AS_TEXT))
def test_every_list_is_read_only_where_text_is_split(name):
    """The others are refused as text: redis_settings has no names then, redis_members no addresses, and so on."""
    wrong = []
    for place, key, tree in EXPRESSIONS:
        split = any(
            test.name == "string" and test.node == nodes.Name(name, "load") for test in tree.find_all(nodes.Test)
        )
        if not split and key not in {"fail_msg", "msg"}:
            wrong += [place for used, above in uses(tree) if used == name and not is_handed_on(above)]
    assert wrong == []
