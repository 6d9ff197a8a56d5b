"""What pages tell people to type exists: commands with their options, playbooks with their variables, targets, extras.

Blocks marked `bash` are run besides, on the hosts of molecule/default; those marked `console` are for hosts, or for
people, who may have none of the names that they show.
"""

from __future__ import annotations

import re
import shlex
import tomllib

import click
import pytest
import yaml
from ansible.parsing.splitter import parse_kv
from terminal import CHECKOUT

from orbiter.cli import main as command

PAGES = [
    *(CHECKOUT / "docs").rglob("*.md"),
    *(
        CHECKOUT / f"{name}.md"
        for name in ("README", "CONTRIBUTING", "SECURITY", "worker/README", "inventories/README")
    ),
]
SPECS = [*(CHECKOUT / "roles").glob("*/meta/argument_specs.yml"), CHECKOUT / "playbooks/meta/argument_specs.yml"]
VARIABLES = {
    name
    for path in SPECS
    for entry in yaml.safe_load(path.read_text())["argument_specs"].values()
    for name in entry.get("options", {})
}
PROJECT = tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
SEPARATORS = {"&&", "||", ";", "|", "&"}


def typed(text):
    """Yield the lines that a page tells people to type."""
    for kind, block in re.findall(r"^ *```(console|bash)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            begin = re.match(r"\s*[$#] ", line) if kind == "console" else re.match(r"\s*", line)
            if begin:
                yield line[begin.end() :]


def words_of(line):
    """Yield the words of each command of a line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        found = list(lexer)
    except ValueError:  # goes on in the next line
        return
    words = []
    for word in [*found, ";"]:
        if word in SEPARATORS:
            if words:
                yield words
            words = []
        else:
            words.append(word)


COMMANDS = [
    (f"{path.relative_to(CHECKOUT)}: {line}", words)
    for path in PAGES
    for line in typed(path.read_text())
    for words in words_of(line)
]
# What stands in the middle of a sentence, such as `-e instances=3`.
INLINE = [
    (path, code, words)
    for path in PAGES
    for code in re.findall(
        r"`([^`\n]* -e [^`\n]+|-e [^`\n]+)`", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    )
    for words in words_of(code)
]


def named(program):
    """Return the commands of a program."""
    return [(shown, words[1:]) for shown, words in COMMANDS if words[0] == program]


def unknown_options(words):
    """Return what the command does not know of the words behind `orbiter`."""
    found, rest = command, list(words)
    while isinstance(found, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        below = found.get_command(click.Context(found), name)
        if below is None:
            return [name]
        found = below
    known = {name for option in found.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]


def test_commands_and_their_options_are_there():
    shown = named("orbiter")
    assert len(shown) > 40
    assert {line: wrong for line, words in shown if (wrong := unknown_options(words))} == {}


def test_playbooks_and_their_variables_are_there():
    shown = named("ansible-playbook")
    assert len(shown) > 30
    wrong = {}
    for line, words in shown:
        books = [word for word in words if re.match(r"orbiter\.fleet\.\w+$|(?:.*/)?\w+\.yml$", word)]
        files = [
            f"playbooks/{book.removeprefix('orbiter.fleet.')}.yml" if book.startswith("orbiter.fleet.") else book
            for book in books
        ]
        given = values_of_extra_vars(words)
        names = {name for text in given for name in re.findall(r"^\{?\"?([a-z_]+)(?==|\":)", text)}
        missing = [name for name in files if not (CHECKOUT / name).is_file()] + sorted(names - VARIABLES)
        if missing or not books:
            wrong[line] = missing
    assert wrong == {}


def test_pages_for_users_name_playbooks_as_the_installed_collection_does():
    """A file of the checkout is named by README's demo alone, whose hosts and collection are the checkout's."""
    files = {
        (line.partition(": ")[0], word)
        for line, words in named("ansible-playbook")
        for word in words
        if word.startswith("playbooks/")
    }
    assert files == {("README.md", "playbooks/scale.yml")}


def values_of_extra_vars(words):
    """Return what follows each `-e`, as the shell hands it to Ansible."""
    return [words[at + 1] for at, word in enumerate(words[:-1]) if word in {"-e", "--extra-vars"}]


def lost_words(value):
    """Return what Ansible takes for no variable in what follows `-e`; it says nothing of them."""
    return "" if value[0] in "{[@" else parse_kv(value).get("_raw_params", "")


def test_extra_vars_with_spaces_reach_ansible_whole():
    shown = [(f"{path.relative_to(CHECKOUT)}: {line}", words) for path, line, words in INLINE] + COMMANDS
    given = [(line, value) for line, words in shown for value in values_of_extra_vars(words)]
    assert len(given) > 30
    assert {line: lost for line, value in given if (lost := lost_words(value))} == {}


def test_targets_are_there():
    shown = named("make")
    assert shown
    assert {
        line for line, words in shown if not {word for word in words if re.match(r"[a-z-]+$", word)} <= TARGETS
    } == set()


def test_extras_are_there():
    shown = [(line, word) for line, words in named("pip") for word in words if word.startswith("./worker")]
    assert len(shown) > 5
    extras = {line: re.findall(r"[\w-]+", word.removeprefix("./worker")) for line, word in shown}
    assert {line for line, names in extras.items() if not set(names) <= set(PROJECT["optional-dependencies"])} == set()


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["task", "list", "--wide"], []),
        (["task", "list", "--widest"], ["--widest"]),
        (["task", "lists"], ["lists"]),
        (["worker", "drain", "w1", "--timeout=5"], []),
    ],
)
def test_what_a_command_does_not_know_is_found(words, wrong):
    assert unknown_options(words) == wrong


@pytest.mark.parametrize(
    ("typed_line", "lost"),
    [
        ("ansible-playbook x.yml -e reason='more memory'", "memory"),
        ("""ansible-playbook x.yml -e "reason='more memory'\"""", ""),
        ("""ansible-playbook x.yml -e '{"reason": "more memory"}'""", ""),
        ("ansible-playbook x.yml -e @file.yml -e 'a=1 b=2'", ""),
    ],
)
def test_words_that_ansible_loses_are_found(typed_line, lost):
    (words,) = words_of(typed_line)
    assert " ".join(map(lost_words, values_of_extra_vars(words))).strip() == lost
