"""`make test-servers`: what it makes of pytest's reports, and that each night has it."""

import runpy

from terminal import CHECKOUT

TOOL = runpy.run_path(str(CHECKOUT / "tools/servers.py"))
REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite>
<testcase classname="tests.integration.test_cli" name="test_a[x-1.5]" time="0.1" />
<testcase classname="tests.integration.test_cli" name="test_b"><failure message="m">text</failure></testcase>
<testcase classname="tests.integration.test_cli" name="test_c"><skipped message="m">text</skipped></testcase>
<testcase classname="tests.integration.test_cli" name="test_d" />
<testcase classname="tests.integration.test_cli" name="test_d"><error message="at its end">text</error></testcase>
</testsuite></testsuites>
"""


def test_a_report_says_how_each_test_ended_by_the_words_that_choose_it():
    file = "tests/integration/test_cli.py"
    assert TOOL["outcomes"](REPORT) == {
        f"{file}::test_a[x-1.5]": "passed",
        f"{file}::test_b": "failed",
        f"{file}::test_c": "skipped",
        f"{file}::test_d": "failed",
    }


def test_the_table_has_a_row_for_each_server():
    found = {"Redis 7.0.15": {"a": "passed", "b": "skipped"}, "Valkey 8.1.4": {"a": "passed", "b": "passed"}}
    assert TOOL["table"](found).splitlines()[2:] == ["| Redis 7.0.15 | 1 | 1 | 0 |", "| Valkey 8.1.4 | 2 | 0 | 0 |"]


def test_tests_that_fail_or_do_not_end_alike_are_told():
    same = {"a": "passed", "b": "skipped"}
    assert TOOL["differences"]({"one": same, "two": dict(same)}) == []
    assert TOOL["differences"]({"one": same, "two": same | {"b": "passed"}}) == ["b: one skipped, two passed"]
    assert TOOL["differences"]({"one": {"a": "failed"}, "two": {"a": "failed"}}) == ["a: one failed, two failed"]
    assert TOOL["differences"]({"one": same, "two": {"a": "passed"}}) == ["b: one skipped, two did not run"]
    assert TOOL["differences"]({"one": {"a": "passed"}, "two": same}) == ["b: one did not run, two skipped"]


def test_the_servers_are_redis_and_valkey_of_debian_and_each_night_has_them():
    assert [tuple(server) for server in TOOL["SERVERS"]] == [
        ("redis", "bookworm"),
        ("redis", "trixie"),
        ("valkey", "trixie"),
    ]
    recipe = (CHECKOUT / "Makefile").read_text().partition("\ntest-nightly:")[2].partition("\n.PHONY")[0]
    assert "test-servers" in recipe
