"""Builds the documentation's site, strictly: .cache/docs/site.

Every page of this checkout that readers are sent to is copied to .cache/docs/pages, with the folders that it has
here, so that links between pages are those of GitHub. A link to anything else in the checkout becomes one to the
repository. Pages and their order are those of docs/README.md. A link or an anchor that leads nowhere, a page that
the index does not list, or lists twice, ends the build with status 1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
INDEX = "docs/README.md"
PLACE = CHECKOUT / ".cache/docs"

# A link or an image of Markdown, without the address of another site or an anchor of the same page.
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)((?:#[^)\s]*)?)(?=\))")
_FENCE = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
_ENTRY = re.compile(r"^- \[([^\]]+)\]\(([^)#\s]+)\)", re.MULTILINE)


def main() -> int:
    """Build the site, and return the exit status."""
    pages = _pages()
    nav, listed = _nav()
    problems = _index_problems(pages, listed)
    shutil.rmtree(PLACE, ignore_errors=True)
    for page in pages:
        to = PLACE / "pages" / page
        to.parent.mkdir(parents=True, exist_ok=True)
        text, broken = _with_links_of_the_site(page, pages)
        problems += broken
        to.write_text(text)
    shutil.copytree(CHECKOUT / "docs/images", PLACE / "pages/docs/images")
    if problems:
        sys.stderr.write("\n".join([*problems, ""]))
        return 1
    settings = (CHECKOUT / "tools/docs_site.toml").read_text()
    (PLACE / "zensical.toml").write_text(settings.replace("nav = []", f"nav = {nav}", 1))
    program = Path(sys.executable).parent / "zensical"
    return subprocess.run([program, "build", "--strict"], cwd=PLACE, check=False).returncode


def _pages() -> list[str]:
    """Return the pages, by their paths in the checkout: what Git knows or would take, but what is not for readers."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(
        name
        for name in set(listed.stdout.split("\0"))
        if name and not name.startswith((".", "changelogs/")) and (CHECKOUT / name).is_file()
    )


def _nav() -> tuple[str, list[str]]:
    """Return the nav as a value of TOML, and all pages of the index."""
    kinds = re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", (CHECKOUT / INDEX).read_text(), re.DOTALL | re.MULTILINE)
    listed = ["README.md", INDEX]
    items = ['{ "Start" = "README.md" }', f'{{ "All pages" = "{INDEX}" }}']
    for kind, text in kinds:
        entries = [(title, os.path.normpath(f"docs/{target}")) for title, target in _ENTRY.findall(text)]
        listed += [path for _title, path in entries]
        inner = ", ".join(f"{{ {json.dumps(title)} = {json.dumps(path)} }}" for title, path in entries)
        items.append(f"{{ {json.dumps(kind)} = [{inner}] }}")
    return f"[{', '.join(items)}]", listed


def _index_problems(pages: list[str], listed: list[str]) -> list[str]:
    twice = sorted({page for page in listed if listed.count(page) > 1})
    # Decisions have an index of their own, and so have the roles: ansible-doc.
    missing = [page for page in pages if page not in listed and not re.match(r"roles/|docs/decisions/\d", page)]
    return [
        *(f"{INDEX}: lists {page} twice; list each page once" for page in twice),
        *(f"{INDEX}: does not list {page}; list it under its kind" for page in missing),
    ]


def _with_links_of_the_site(page: str, pages: list[str]) -> tuple[str, list[str]]:
    """Return the text of a page with the links that it has on the site, and what is wrong with them."""
    repository = tomllib.loads((CHECKOUT / "tools/docs_site.toml").read_text())["project"]["repo_url"]
    broken = []

    def on_the_site(link: re.Match[str]) -> str:
        target, anchor = link.groups()
        path = os.path.normpath(Path(page).parent / target)
        if not (CHECKOUT / path).exists() or path.startswith(".."):
            broken.append(f"{page}: links to {target}, which does not exist")
        if path in pages or path.startswith("docs/images/"):
            return f"{target}{anchor}"
        return f"{repository}/blob/main/{path}{anchor}"

    text = (CHECKOUT / page).read_text()
    # What looks like a link in a block of code is none.
    parts, at = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(on_the_site, text[at : fence.start()]), fence.group()]
        at = fence.end()
    return "".join([*parts, _LINK.sub(on_the_site, text[at:])]), broken


if __name__ == "__main__":
    sys.exit(main())
