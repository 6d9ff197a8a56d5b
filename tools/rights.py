"""Writes what follows from rights of Redis' users and from the queue's scripts. Usage: rights.py [--check | --release].

The tables in docs/redis-users.md and docs/redis-rights.md, from roles/redis/files/rights.yml; and
roles/redis/files/client_scripts.json, the scripts that clients run. With --release those that were current become the
previous release's: while a fleet is updated, and after it has gone back, clients of both work.
"""

import json
import sys
from pathlib import Path

import yaml

from orbiter.distributed.broker import scripts

HERE = Path(__file__).resolve().parent.parent
RIGHTS = HERE / "roles" / "redis" / "files" / "rights.yml"
SCRIPTS = HERE / "roles" / "redis" / "files" / "client_scripts.json"
USERS_PAGE = HERE / "docs" / "redis-users.md"
RIGHTS_PAGE = HERE / "docs" / "redis-rights.md"
BEGIN, END = "<!-- rights: made by `make rights` from roles/redis/files/rights.yml -->\n", "<!-- end of rights -->\n"


def users(rights: dict) -> str:
    """Return what each user is for, as Markdown."""
    lines = ["| user | for | may | may not |", "| --- | --- | --- | --- |"]
    lines += [f"| `{name}` | {user['for']} | {user['may']} | {user['may_not']} |" for name, user in rights.items()]
    lines += ["| `admin` | operators, replicas, sentinels | everything | |", ""]
    return "\n".join(lines)


def tables(rights: dict) -> str:
    """Return what each user may do with which keys, as Markdown."""
    lines = []
    for name, user in rights.items():
        lines += [f"`{name}`:", "", "| with | keys | commands |", "| --- | --- | --- |"]
        channels = " ".join(f"`{channel}`" for channel in user["channels"].split())
        lines += [f"| {cluster(row)}no key | | {commands(row)} |" for row in user["anywhere"]]
        lines += [f"| channels | {channels} | |"] if channels else []
        lines += [f"| {cluster(row)}{row['what']} | {keys(row)} | {commands(row)} |" for row in user["rows"]]
        lines.append("")
    return "\n".join(lines)


def cluster(row: dict) -> str:
    """Return what marks a row that is for clusters only."""
    return "*in a cluster:* " if row.get("cluster", False) else ""


def keys(row: dict) -> str:
    """Return a row's keys."""
    words = {"RECORD": "each record `orbiter:task:ID`"}
    return ", ".join(words.get(key, f"`{key}`") for key in row["keys"].split())


def commands(row: dict) -> str:
    """Return a row's commands."""
    if row["commands"] == "SCRIPTS":
        return f"`evalsha` of {', '.join(f'`{name}`' for name in scripts.CLIENTS)}"
    return " ".join(f"`{word.replace('|', ' ')}`" for word in row["commands"].split())


def page(text: str, made: str) -> str:
    """Return a page with what is made of the rights of now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + made + "\n" + END + rest.split(END)[1]


def client_scripts(text: str, *, release: bool) -> str:
    """Return the file of scripts as it is to be."""
    known = json.loads(text) if text else {"current": {}, "previous": {}}
    current = dict(zip(scripts.CLIENTS, scripts.client_scripts().values(), strict=True))
    previous = known["current"] if release else known["previous"]
    return json.dumps({"current": current, "previous": previous}, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write the files, or check that they are as they would be written."""
    old = {path: path.read_text() if path.exists() else "" for path in (USERS_PAGE, RIGHTS_PAGE, SCRIPTS)}
    rights = yaml.safe_load(RIGHTS.read_text())["rights"]
    new = {
        USERS_PAGE: page(old[USERS_PAGE], users(rights)),
        RIGHTS_PAGE: page(old[RIGHTS_PAGE], tables(rights)),
        SCRIPTS: client_scripts(old[SCRIPTS], release="--release" in sys.argv[1:]),
    }
    stale = [path for path in new if old[path] != new[path]]
    if "--check" in sys.argv[1:]:
        if stale:
            names = ", ".join(str(path.relative_to(HERE)) for path in stale)
            sys.exit(f"{names}: not what rights and scripts are now; run `make rights`")
        return
    for path in stale:
        path.write_text(new[path])


if __name__ == "__main__":
    main()
