"""Draws the packages of the worker, and what each imports, into docs/architecture.md. Usage: picture.py [--check]."""

import configparser
import sys
from pathlib import Path

import grimp

ROOT = "orbiter.distributed"
HERE = Path(__file__).resolve().parent.parent
PAGE = HERE / "docs" / "architecture.md"
BEGIN, END = "<!-- picture: made by `make picture` -->\n", "<!-- end of picture -->\n"
A_LINE = 5


def floors() -> list[list[str]]:
    """Return the names on each floor, from the top down, as the contract of imports has them."""
    contracts = configparser.ConfigParser()
    contracts.read(HERE / "worker" / ".importlinter", encoding="utf-8")
    layers = contracts["importlinter:contract:rooms"]["layers"].strip().splitlines()
    return [[name.strip() for name in layer.split("|")] for layer in layers if not layer.strip().startswith(";")]


def draw() -> str:
    """Return the picture as Mermaid text: a box for each package with its modules, an arrow for each import."""
    graph = grimp.build_graph(ROOT, cache_dir=None)
    lines, packages, files = ["```mermaid", "flowchart TD"], [], []
    for name in [name for floor in floors() for name in floor]:
        modules = sorted(child.rpartition(".")[2] for child in graph.find_children(f"{ROOT}.{name}"))
        if not modules:
            files.append(name)
            continue
        packages.append(name)
        rows = [" · ".join(modules[at : at + A_LINE]) for at in range(0, len(modules), A_LINE)]
        lines.append(f'  {name}["<b>{name}/</b><br>{"<br>".join(rows)}"]')
    lines.append(f'  files["{" · ".join(files)}"]')
    for name in packages:
        within = {f"{ROOT}.{name}", *graph.find_descendants(f"{ROOT}.{name}")}
        imported = {found.split(".")[2] for one in within for found in graph.find_modules_directly_imported_by(one)}
        lines += [f"  {name} --> {other}" for other in packages if other in imported - {name}]
    return "\n".join([*lines, "```", ""])


def main() -> None:
    """Write the picture into the page, or check that it is there."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    drawn = f"{before}{BEGIN}{draw()}{END}{after}"
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(drawn, encoding="utf-8")
    elif drawn != text:
        sys.exit("docs/architecture.md: the picture is not that of the code; run `make picture`")


if __name__ == "__main__":
    main()
