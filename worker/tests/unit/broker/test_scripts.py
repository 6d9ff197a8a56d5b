"""The queue's scripts: each includes what it uses, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orbiter.distributed.broker import scripts
from orbiter.distributed.broker.scripts import SETTINGS, IncludeError, assemble, includes, names

LUA = Path(scripts.__file__).parent / "lua"
SECONDS = {"ENDED_TTL": 1, "TASK_TTL": 2, "EVENT_TTL": 3, "FLEET_TTL": 4}
# Comments, texts, fields (a.b, a:b) and numbers are no names.
_TOKEN = re.compile(r"--[^\n]*|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|\.\.|[.:]\s*[A-Za-z_]\w*|\d\w*|([A-Za-z_]\w*)")
_TOP_LEVEL = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)


def words(text: str) -> set[str]:
    """Return the names that Lua text uses or defines."""
    return {name for name in _TOKEN.findall(text) if name}


def defined(text: str) -> set[str]:
    """Return the names that Lua text defines at its top level."""
    return {name.strip() for names in _TOP_LEVEL.findall(text) for name in names.split(",")}


def findings(lua: Path) -> list[str]:
    """Return what is wrong with the includes of the scripts and parts in a folder."""
    parts = {path.stem: path.read_text() for path in (lua / "lib").glob("*.lua")}
    shared = {*parts, *SETTINGS}
    private = {name: part for part, text in parts.items() for name in defined(text) - {part}}
    found = [f"lib/{part} does not define {part}" for part, text in parts.items() if part not in defined(text)]
    included: set[str] = set()
    for path in sorted(lua.glob("*/*.lua")):
        name, text = f"{path.parent.name}/{path.stem}", path.read_text()
        itself = {path.stem} if path.parent.name == "lib" else set()
        used, named = words(text), includes(text)
        included |= {*named}
        found += [f"{name} includes {part} twice" for part in shared if named.count(part) > 1]
        found += [f"{name} includes {part}, which does not exist" for part in {*named} - shared]
        found += [f"{name} includes {part}, but does not use it" for part in {*named} & shared - used]
        found += [f"{name} uses {part}, but does not include it" for part in used & shared - {*named} - itself]
        found += [
            f"{name} uses {word}, which is private to lib/{private[word]}"
            for word in (used - defined(text)) & {*private}
            if private[word] not in itself
        ]
    return found + [f"nobody includes {part}" for part in shared - included]


def test_scripts_include_exactly_what_they_use() -> None:
    assert findings(LUA) == []


@pytest.mark.parametrize(
    ("script", "finding"),
    [
        ("--!include now\nreturn now()", None),
        ("return now()", "core/it uses now, but does not include it"),
        ("--!include now\nreturn 'now()' -- now()", "core/it includes now, but does not use it"),
        ("--!include now later\nreturn now(later)", "core/it includes later, which does not exist"),
        ("--!include now now\nreturn now()", "core/it includes now twice"),
        ("--!include now\nreturn now(clock)", "core/it uses clock, which is private to lib/now"),
        ("return redis.now()", "nobody includes now"),
    ],
)
def test_include_that_is_wrong_is_found(tmp_path: Path, script: str, finding: str | None) -> None:
    write(
        tmp_path, {"core/it": f"#!lua\n{script}\n", "lib/now": "local clock\nlocal function now() return clock end\n"}
    )
    found = [text for text in findings(tmp_path) if not text.startswith("nobody includes") or text.endswith(" now")]
    assert found[:1] == ([finding] if finding else [])


def test_assembled_script_holds_parts_once_and_before_their_users(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "core/it": "#!lua flags=no-writes\n--!include b a EVENT_TTL\nreturn a(b)\n",
            "lib/a": "--!include c\nlocal a = c\n",
            "lib/b": "--!include a c TASK_TTL\nlocal b = a\n",
            "lib/c": "local c = 1\n",
            "lib/unused": "local unused = 1\n",
        },
    )
    lines = [line for line in assemble("core/it", SECONDS, folder=tmp_path).splitlines() if line[:4] != "--!i" and line]
    assert lines == [
        "#!lua flags=no-writes",
        "local c = 1",
        "local a = c",
        "local TASK_TTL = '2'",
        "local b = a",
        "local EVENT_TTL = '3'",
        "return a(b)",
    ]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"lib/a": "--!include b\n", "lib/b": "--!include a\n"}, "core/it includes a includes b includes a"),
        ({"lib/a": "--!include b\n"}, "a includes b: no file"),
        ({}, "core/it includes a: no file"),
    ],
    ids=["circle", "unknown in a part", "unknown"],
)
def test_assembling_what_cannot_be_included_is_refused(tmp_path: Path, parts: dict[str, str], message: str) -> None:
    write(tmp_path, {"core/it": "#!lua\n--!include a\n", "lib/none": "", **parts})
    with pytest.raises(IncludeError, match=message):
        assemble("core/it", SECONDS, folder=tmp_path)


def test_no_script_writes_a_time_to_live_out() -> None:
    for path in LUA.glob("*/*.lua"):
        assert not re.search(r"\b(86400|3600)\b", path.read_text()), path


def test_every_script_states_its_keys_and_has_a_call() -> None:
    package = Path(scripts.__file__).parent / "calls"
    called = {name for path in package.glob("*.py") for name in re.findall(r'Call\(\s*"(\w+/\w+)"', path.read_text())}
    assert called == {*names()}
    for name in names():
        head = (LUA / f"{name}.lua").read_text().partition("\n--!include")[0]
        assert re.match(r"#!lua( flags=[\w,-]+)?\n-- [A-Z]", head), name
        assert "\n-- KEYS  " in head, name


@pytest.mark.skipif(shutil.which("luacheck") is None, reason="luacheck is not installed (Debian: lua-check)")
def test_luacheck_finds_nothing_in_assembled_scripts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orbiter.distributed.broker.scripts", "--assemble", str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    options = ["--no-config", "--no-color", "--std", "lua51", "--read-globals", "redis", "cjson", "KEYS", "ARGV", "--"]
    command = ["luacheck", "-q", *options, "."]
    checked = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout
    assert f"in {len(names())} files" in checked.stdout


def write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        path = folder / f"{name}.lua"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
