"""Docs, errors and help texts use one word for an idea, and can be read alone: by somebody who sees one at a time."""

from __future__ import annotations

import re
import runpy

import click
import pytest
import yaml
from terminal import CHECKOUT

from orbiter.cli import main as command

NEVER = runpy.run_path(str(CHECKOUT / "worker/tests/unit/test_words.py"))["NEVER"]
PAGES = [CHECKOUT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "worker/README")]
PAGES += sorted((CHECKOUT / "docs").rglob("*.md"))
# Whose word it is: BullMQ's, GitHub's, Prometheus'.
LOOKED_AT = {
    ("jobs", "docs/compared.md"),
    ("job", "CONTRIBUTING.md"),
    ("job", "roles/monitoring"),
}
# A help text that stands alone names what it is about.
DANGLING = re.compile(
    r"^(It|Its|That|Those|They|There|These|This|For whom|From where|Whom)\b|\b(of|for|at) (that|it|them)\b[,.]"
    r"|^(Where|What|How long|How often|Whether|After what time) (it|they)\b|\bsomebody is\b"
)
TIME = re.compile(r"(_|-)(timeout|ttl|wait|patience|settle|after|backoff|lag|seconds|days|interval)$")
UNIT = re.compile(r"\b[Ss]econds?\b|\bs\b|\b[Dd]ays\b|\bC\(\d+[smhd]\)")
REMEDY = re.compile(
    r"\b(must|needs?|wants?|ha(s|ve) to|[Ss]ay|[Ss]et|[Rr]un|is above|Add|Back|Check|Choose|Correct|Give|Install|Leave"
    r"|Make|Name|Put|Rename|Remove|Set|Stop|Take|Use|Wait|Was|Can|Write)\b"
)
LONGEST_SENTENCE = 45


def stripped(text):
    """Return a page's prose: without code, and without what links lead to."""
    text = re.sub(r"^( *)```.*?^\1```$|`[^`]*`|<!--.*?-->", " ", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\]\([^)]*\)|https?://\S+", "]", text)


def first(text):
    """Return the first sentence: what a list of options shows."""
    return re.split(r"(?<=\.)\s+(?=[A-Z])", text, maxsplit=1)[0]


def spaced(text):
    """Return the words of a text in small letters, with those of a name apart."""
    return re.sub(r"[_\W]+", " ", re.sub(r"([a-z])([A-Z])", r"\1 \2", text)).lower()


TEXTS = {path.relative_to(CHECKOUT).as_posix(): spaced(stripped(path.read_text())) for path in PAGES}
TEXTS |= {
    path.relative_to(CHECKOUT).as_posix(): spaced(path.read_text())
    for folder in ("plugins", "roles", "playbooks")
    for path in sorted((CHECKOUT / folder).rglob("*"))
    if path.suffix in {".py", ".yml", ".j2"}
}


class Loader(yaml.SafeLoader):
    """Reads a playbook without Ansible's tags."""


Loader.add_multi_constructor("!", lambda *_args: None)


def messages(node):
    """Yield what a playbook's part says where it fails: fail_msg of assert, msg of fail."""
    if isinstance(node, list):
        for one in node:
            yield from messages(one)
    elif isinstance(node, dict):
        for name in ("ansible.builtin.assert", "ansible.builtin.fail"):
            said = (node.get(name) or {}).get("fail_msg" if name.endswith("assert") else "msg")
            if said:
                yield " ".join(said.split())
        for one in node.values():
            yield from messages(one)


FAILURES = [
    (f"{path.relative_to(CHECKOUT)}: {said}", said)
    for folder in ("roles", "playbooks")
    for path in sorted((CHECKOUT / folder).rglob("*.yml"))
    if path.parent.name != "meta"
    for said in messages(list(yaml.load_all(path.read_text(), Loader)))
]


def variables():
    """Yield name, help and type of each variable of a role."""
    for path in sorted((CHECKOUT / "roles").glob("*/meta/argument_specs.yml")):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            for name, option in entry["options"].items():
                said = option["description"]
                yield name, said if isinstance(said, str) else said[0], option["type"]


def options(group, path=("orbiter",)):
    """Yield name, help and type of each option of the command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from options(found, (*path, name))
        else:
            for one in found.params:
                if isinstance(one, click.Option) and one.help:
                    yield " ".join((*path, name, one.opts[0])), one.help, one.type.name


HELP = sorted({*variables(), *options(command)})


@pytest.mark.parametrize("word", NEVER)
def test_docs_and_collection_never_say(word):
    found = {name for name, text in TEXTS.items() if re.search(rf"\b{word}\b", text)}
    assert {name for name in found if not any(word == own and name.startswith(at) for own, at in LOOKED_AT)} == set()


def test_what_was_looked_at_is_there():
    unused = [
        (word, at)
        for word, at in LOOKED_AT
        if not any(name.startswith(at) and re.search(rf"\b{word}\b", text) for name, text in TEXTS.items())
    ]
    assert unused == [], "needed no longer"


def test_a_help_text_names_what_it_is_about():
    assert len(HELP) > 250
    assert [(name, said) for name, said, _kind in HELP if DANGLING.search(first(said))] == []


def test_the_help_of_a_time_says_its_unit():
    times = [(name, said) for name, said, kind in HELP if TIME.search(name) and kind not in ("bool", "boolean")]
    assert len(times) > 20
    assert [(name, said) for name, said in times if not UNIT.search(said)] == []


def test_a_failure_says_what_to_do():
    assert len(FAILURES) > 60
    assert [name for name, said in FAILURES if not REMEDY.search(said) and not said.startswith("{{")] == []


def test_a_sentence_of_a_failure_is_short():
    long = []
    for name, said in FAILURES:
        plain = re.sub(r"\{\{.*?\}\}", "VALUE", said)
        long += [name for one in re.split(r"(?<=[.:;])\s+", plain) if len(one.split()) > LONGEST_SENTENCE]
    assert long == []
