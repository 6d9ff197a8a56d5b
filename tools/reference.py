"""Writes docs/reference: variables of the roles, and options of the command. Usage: reference.py [--check].

Of a variable it takes the first sentence of what meta/argument_specs.yml says, of a command what its --help says:
`ansible-doc` and `--help` have all of it.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

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


def _line(name: str, note: str, text: str) -> str:
    line = f"- `{name}`{f' ({note})' if note else ''}: {text}"
    return textwrap.fill(line, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _page(head: tuple[str, str], note: str, body: str) -> str:
    return f"# {head[0]}\n\n{head[1]}\n\n{textwrap.fill(note, 110)}\n\n<!-- made by `make reference` -->\n\n{body}"


def main() -> None:
    """Write the pages, or check that they are as they would be written."""
    made = {FOLDER / name: text.rstrip("\n") + "\n" for name, text in (role_pages() | command_pages()).items()}
    there = {path: path.read_text() for path in FOLDER.glob("*.md")}
    stale = sorted(path for path in made.keys() | there.keys() if made.get(path) != there.get(path))
    if "--check" in sys.argv[1:]:
        if stale:
            names = ", ".join(str(path.relative_to(HERE)) for path in stale)
            sys.exit(f"{names}: not what roles and commands are now; run `make reference`")
        return
    FOLDER.mkdir(exist_ok=True)
    for path in stale:
        if path in made:
            path.write_text(made[path])
        else:
            path.unlink()


if __name__ == "__main__":
    main()
