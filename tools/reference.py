"""Writes docs/reference: variables of roles, options of the command, names of Python. Usage: reference.py [--check].

Of a variable it takes the first sentence of what meta/argument_specs.yml says, of a command what its --help says, of
a name of Python the first sentence of its docstring: `ansible-doc`, `--help` and `help()` have all of it.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from pydantic import BaseModel

from orbiter import distributed
from orbiter.cli import main as command

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent.parent
FOLDER = HERE / "docs" / "reference"
# Pages of roles, by their names; those of no other page are on the last one.
ROLE_PAGES = {"worker": ["worker"], "redis": ["redis"], "monitoring": ["monitoring", "dashboard"]}
# Options that every command has: docs/command-options.md.
COMMON = {"redis_url", "namespace", "queue", "as_json", "help"}
DEFAULTS = "In parentheses stands the default; *from others* is one that is made of other variables."
OPTIONS = (
    "In parentheses stand its variable and its default. The options of [every command](../command-options.md), and"
    " commands without others, are left out."
)
SERVING = {"start", "dev", "dashboard", "top"}
CLIENTS = ("client", "errors", "models", "names", "connection", "broker.records")
PARTS = ("broker.events", "broker.store", "broker.task_broker")
NAMES = "`from orbiter.distributed import …` brings each of these. `help()` in Python has arguments, units and errors."
WITHOUT_DOCSTRING = {"HAS_TEMPORAL": "Whether the extra `temporal` is installed."}


def role_pages() -> dict[str, str]:
    """Return the pages of the roles, by their names."""
    roles = sorted(path.parent.parent.name for path in (HERE / "roles").glob("*/meta/argument_specs.yml"))
    taken = {role for page in ROLE_PAGES.values() for role in page}
    pages = ROLE_PAGES | {"other": [role for role in roles if role not in taken]}
    return {f"roles-{name}.md": _page(_roles(of), DEFAULTS, "\n".join(map(_role, of))) for name, of in pages.items()}


def _roles(names: list[str]) -> tuple[str, str]:
    if len(names) > 2:
        return "Variables of the other roles", "Which variables the smaller roles take, one line each."
    said = " and ".join(f"`{name}`" for name in names)
    return (
        f"Variables of {said}",
        f"Which variables {said} take{'' if len(names) > 1 else 's'}, one line each.",
    )


def _role(name: str) -> str:
    options: dict[str, Any] = {}
    specs = yaml.safe_load((HERE / f"roles/{name}/meta/argument_specs.yml").read_text())["argument_specs"]
    for entry in specs.values():
        options |= entry["options"]
    lines = [_line(variable, _default(option), _first(option["description"])) for variable, option in options.items()]
    whole = f"All that there is to say of them: `ansible-doc -t role orbiter.fleet.{name}`."
    return "\n".join([f"## {name}", "", whole, "", *lines, ""])


def _default(option: dict[str, Any]) -> str:
    """Return what a variable is where the inventory does not say."""
    value = option.get("default")
    if option.get("required"):
        return "required"
    if value is None or value == "":
        return "not set"
    if "{{" in str(value):
        return "from others"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _first(description: str | list[str]) -> str:
    """Return the first sentence, as Markdown."""
    text = description if isinstance(description, str) else description[0]
    text = re.split(r"(?<=\.)\s+(?=[A-Z])", text, maxsplit=1)[0]
    return re.sub(r"\b[A-Z]\(([^()]*(?:\([^()]*\))?[^()]*)\)", r"`\1`", text)


def command_pages() -> dict[str, str]:
    """Return the pages of the command, by their names."""
    found = list(_leaves(command, ()))
    serving = [_command(*leaf) for leaf in found if leaf[0][0] in SERVING]
    asking = [_command(*leaf) for leaf in found if leaf[0][0] not in SERVING]
    start = "Which options the commands take that go on until they are stopped."
    rest = "Which options the commands take that ask, tell and end."
    return {
        "command-serving.md": _page(
            ("Options of commands that go on", start), OPTIONS, "\n".join(filter(None, serving))
        ),
        "command-asking.md": _page(("Options of commands that end", rest), OPTIONS, "\n".join(filter(None, asking))),
    }


def python_pages() -> dict[str, str]:
    """Return the pages of what Python programs import, by their names."""
    clients = [name for name in distributed.__all__ if _home(name).startswith(CLIENTS)]
    parts = [name for name in distributed.__all__ if _home(name).startswith(PARTS)]
    workers = [name for name in distributed.__all__ if name not in {*clients, *parts}]
    first = ("Python: clients, tasks and errors", "What a program imports to submit tasks and follow them.")
    second = ("Python: workers, and what runs in them", "What a program imports to run, watch or extend workers.")
    third = ("Python: the parts of clients and workers", "What a program imports to build a client of its own.")
    return {
        "python-clients.md": _page(first, NAMES, "\n".join(map(_object, clients))),
        "python-workers.md": _page(second, NAMES, "\n".join(map(_object, workers))),
        "python-parts.md": _page(third, NAMES, "\n".join(map(_object, parts))),
    }


def _home(name: str) -> str:
    """Return the module of a public name, below orbiter.distributed."""
    module = getattr(getattr(distributed, name), "__module__", "")
    return str(module).removeprefix("orbiter.distributed.")


def _object(name: str) -> str:
    """Return the line of a name, and those of its methods."""
    found = getattr(distributed, name)
    if name in WITHOUT_DOCSTRING:
        return _line(name, "", WITHOUT_DOCSTRING[name])
    lines = [_line(f"{name}{_arguments(found)}", "", _sentence(found))]
    if inspect.isclass(found) and not issubclass(found, Exception):
        for method, value in inspect.getmembers(found):
            own = value.fget if isinstance(value, property) else value
            if method.startswith("_") or not str(getattr(own, "__module__", "")).startswith("orbiter."):
                continue
            if inspect.isfunction(own) or inspect.ismethod(own):
                shown = method if isinstance(value, property) else f"{method}{_arguments(own)}"
                lines.append(_line(shown, "", _sentence(own), indent="  "))
    return "\n".join(lines)


def _arguments(found: Any) -> str:
    """Return the names of a call's arguments; nothing for what programs do not make, or make by its many fields."""
    plain = inspect.isclass(found) and (
        dataclasses.is_dataclass(found) or issubclass(found, (Exception, BaseModel, enum.Enum))
    )
    if plain:
        return ""
    shown, star = [], False
    for parameter in inspect.signature(found).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        shown.append(prefix + parameter.name)
    return f"({', '.join(shown)})"


def _sentence(found: Any) -> str:
    """Return the first sentence of a docstring, as Markdown."""
    paragraph = " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].split())
    text = re.split(r"(?<=\.)\s+(?=[A-Z])", paragraph, maxsplit=1)[0]
    return re.sub(r":\w+:`~?(?:[a-z_]+\.)*(\w[\w.]*)`", r"`\1`", text).replace("``", "`")


def _leaves(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from _leaves(found, (*path, name))
        elif found:
            yield (*path, name), found


def _command(path: tuple[str, ...], found: click.Command) -> str:
    name = " ".join(("orbiter", *path))
    options = [option for option in found.params if isinstance(option, click.Option) and option.name not in COMMON]
    context = click.Context(found)
    lines = [_line(", ".join(option.opts), _note(option, context), option.help or "") for option in options]
    return "\n".join([f"## {name}", "", *lines, ""]) if lines else ""


def _note(option: click.Option, context: click.Context) -> str:
    """Return the variable that stands for an option, and its default."""
    extra = option.get_help_extra(context)
    default = [f"`{extra['default']}`"] if extra.get("default") else []
    return ", ".join([*(f"`{name}`" for name in extra.get("envvars", ())), *default])


def _line(name: str, note: str, text: str, *, indent: str = "") -> str:
    line = f"{indent}- `{name}`{f' ({note})' if note else ''}: {text}"
    return textwrap.fill(line, 110, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False)


def _page(head: tuple[str, str], note: str, body: str) -> str:
    return f"# {head[0]}\n\n{head[1]}\n\n{textwrap.fill(note, 110)}\n\n<!-- made by `make reference` -->\n\n{body}"


def main() -> None:
    """Write the pages, or check that they are as they would be written."""
    pages = role_pages() | command_pages() | python_pages()
    made = {FOLDER / name: text.rstrip("\n") + "\n" for name, text in pages.items()}
    there = {path: path.read_text() for path in FOLDER.glob("*.md")}
    stale = sorted(path for path in made.keys() | there.keys() if made.get(path) != there.get(path))
    if "--check" in sys.argv[1:]:
        if stale:
            names = ", ".join(str(path.relative_to(HERE)) for path in stale)
            sys.exit(f"{names}: not what roles, commands and docstrings are now; run `make reference`")
        return
    FOLDER.mkdir(exist_ok=True)
    for path in stale:
        if path in made:
            path.write_text(made[path])
        else:
            path.unlink()


if __name__ == "__main__":
    main()
