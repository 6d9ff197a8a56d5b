from __future__ import annotations

import logging
import re
import subprocess
import sys
import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orbiter.distributed.errors import ConfigurationError, ImportRefusedError
from orbiter.distributed.runtimes.imports import ImportGuard
from tests.unit.runtimes import targets
from tests.unit.runtimes.support import HERE

# Of the standard library, and imported by nothing here: what an attacker's path might load.
UNUSED = ("this", "antigravity", "idlelib", "turtledemo", "wsgiref")


@pytest.fixture(autouse=True, scope="module")
def packages(tmp_path_factory):
    """``goodpkg`` is what gets allowed; ``goodpkgs`` and ``evilpkg`` are not, however one gets there."""
    root = tmp_path_factory.mktemp("packages")
    files = {
        "goodpkg/__init__.py": "",
        "goodpkg/tools.py": """
            import os
            import evilpkg
            from evilpkg import imported
            def search(): ...
            class Box:
                @staticmethod
                def inside(): ...
        """,
        "goodpkg/needs.py": "import a_library_that_is_not_there",
        "goodpkg/broken.py": "raise RuntimeError('cannot be')",
        "goodpkgs/__init__.py": "def search(): ...",
        "evilpkg/__init__.py": """
            import importlib
            def imported(): ...
            def __getattr__(name):
                return importlib.import_module(f'evilpkg.{name}')
        """,
        "evilpkg/secret.py": "def run(): ...",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    sys.path.insert(0, str(root))
    yield
    sys.path.remove(str(root))
    for name in [name for name in sys.modules if name.partition(".")[0] in {"goodpkg", "goodpkgs", "evilpkg"}]:
        del sys.modules[name]


@pytest.mark.parametrize("path", ["goodpkg.tools:search", "goodpkg.tools.search"])
def test_both_ways_of_writing_a_path_load_the_object(path):
    assert ImportGuard(["goodpkg"]).load(path) is sys.modules["goodpkg.tools"].search


@pytest.mark.parametrize("path", ["goodpkg.tools:Box.inside", "goodpkg.tools.Box.inside"])
def test_attributes_of_a_class_are_found(path):
    assert ImportGuard(["goodpkg.tools"]).load(path) is sys.modules["goodpkg.tools"].Box.inside


@pytest.mark.parametrize(
    ("allow", "path"),
    [
        ([], "goodpkg.tools.search"),
        ([""], "goodpkg.tools.search"),
        (["goodpkg"], "os.system"),
        (["goodpkg"], "goodpkgs.search"),
        (["goodpkg"], "goodpkgs:search"),
        (["goodpkg.tools"], "goodpkg.needs.x"),
        (["goodpkg.tools.search"], "goodpkg.tools.search"),
        (["goodpkg"], "goodpkg.tools.os.system"),
        (["goodpkg"], "goodpkg.tools:os.system"),
        (["goodpkg"], "goodpkg.tools.os"),
        (["goodpkg"], "goodpkg.tools.imported"),
        (["goodpkg"], "goodpkg.tools.evilpkg.secret.run"),
    ],
)
def test_what_is_not_allowed_is_refused_naming_path_and_option(allow, path):
    with pytest.raises(ImportRefusedError) as caught:
        ImportGuard(allow).load(path)
    assert path in str(caught.value)
    assert "--allow-import PREFIX" in str(caught.value)
    assert "ORBITER_ALLOW_IMPORT" in str(caught.value)
    assert "evilpkg.secret" not in sys.modules


@pytest.mark.parametrize(
    "path", ["goodpkg.tools.__builtins__", "goodpkg.tools.search.__globals__", "goodpkg._x.y", "_thread.exit"]
)
@pytest.mark.parametrize("allow", ["goodpkg", "*"])
def test_private_parts_are_refused_whatever_is_allowed(allow, path):
    with pytest.raises(ImportRefusedError, match="private"):
        ImportGuard([allow]).load(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "goodpkg",
        ".",
        "..x",
        "goodpkg.",
        "goodpkg..tools",
        "goodpkg:",
        ":search",
        "goodpkg:a:b",
        "goodpkg tools.x",
        "goodpkg.tools.search\n",
        "ｇoodpkg.tools.search",
        "goodpkg/tools.search",
        "goodpkg.tools.<locals>.f",
    ],
)
def test_what_is_not_a_dotted_path_is_a_configuration_error(path):
    with pytest.raises(ConfigurationError) as caught:
        ImportGuard(["*"]).load(path)
    assert not isinstance(caught.value, ImportRefusedError)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "absent"),
    [
        ("goodpkg.tools.nothing", "goodpkg.tools has no nothing"),
        ("goodpkg.tools:nothing", "goodpkg.tools has no nothing"),
        ("goodpkg.tools.Box.outside", "goodpkg.tools.Box has no outside"),
        ("goodpkg.nowhere.at_all", "goodpkg has no nowhere"),
        ("goodpkg.nowhere:at_all", "no module goodpkg.nowhere"),
        ("goodpkg_not_here.at_all", "no module goodpkg_not_here"),
    ],
)
def test_an_allowed_path_to_nothing_is_a_configuration_error_that_names_what_is_absent(path, absent):
    with pytest.raises(ConfigurationError, match=re.escape(absent)) as caught:
        ImportGuard(["goodpkg", "goodpkg_not_here"]).load(path)
    assert path in str(caught.value)
    assert not isinstance(caught.value, ImportRefusedError)


@pytest.mark.parametrize(
    ("path", "meant"),
    [("goodpkg.tools.serach", "search"), ("goodpkg.tools:box", "Box"), ("goodpkg.tools.importde", "")],
)
def test_of_names_that_were_probably_meant_only_what_would_load_is_told(path, meant):
    with pytest.raises(ConfigurationError) as caught:
        ImportGuard(["goodpkg"]).load(path)
    assert re.findall(r"did you mean (\w*)\?", str(caught.value)) == [meant] * bool(meant)


def test_nothing_is_looked_for_left_of_an_allowed_prefix():
    with pytest.raises(ConfigurationError, match="has no nothing"):
        ImportGuard(["goodpkg.tools"]).load("goodpkg.tools.nothing")


def test_a_module_that_lacks_a_library_or_breaks_says_so():
    with pytest.raises(ConfigurationError, match="a_library_that_is_not_there, not installed"):
        ImportGuard(["goodpkg"]).load("goodpkg.needs.x")
    with pytest.raises(ConfigurationError, match="RuntimeError: cannot be"):
        ImportGuard(["goodpkg"]).load("goodpkg.broken.x")


def test_a_star_allows_everything_and_is_warned_about(caplog):
    with caplog.at_level(logging.WARNING):
        guard = ImportGuard(["*"])
    assert "any code" in caplog.text
    assert guard.load("os.getcwd") is __import__("os").getcwd


@pytest.mark.parametrize("entry", ["my-app", "myapp.*", "myapp.", "a b"])
def test_an_allowed_prefix_must_be_one(entry):
    with pytest.raises(ConfigurationError, match="--allow-import"):
        ImportGuard([entry])


def test_a_ready_made_tool_belongs_to_the_module_of_its_function():
    guard = ImportGuard(["tests"])
    assert guard.load(f"{HERE}.ready_made") is targets.ready_made
    for name in ("foreign_tool", "borrowed", "partial"):
        with pytest.raises(ImportRefusedError):
            guard.load(f"{HERE}:{name}")


names = st.sampled_from(
    ["goodpkg", "goodpkgs", "evilpkg", "tools", "secret", "run", "search", "os", "system", "imported", "Box", *UNUSED]
)
paths = st.builds(
    lambda parts, separators: "".join(map("".join, zip(parts, [*separators, ""], strict=False))),
    st.lists(names | st.text(max_size=3), max_size=5),
    st.lists(st.sampled_from(".:"), min_size=5, max_size=5),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=paths)
def test_no_path_ever_imports_or_returns_what_is_not_allowed(path):
    guard = ImportGuard(["goodpkg"])
    __import__("goodpkg.tools")  # what it imports itself is its own business
    before = set(sys.modules)
    try:
        found = guard.load(path)
    except ConfigurationError:
        pass
    else:
        assert getattr(found, "__module__", getattr(found, "__name__", "")).partition(".")[0] == "goodpkg"
    assert {name for name in set(sys.modules) - before if name.partition(".")[0] != "goodpkg"} == set()


def test_importing_the_guard_does_not_load_pydantic_ai():
    code = "import sys, orbiter.distributed.runtimes; sys.exit('pydantic_ai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
