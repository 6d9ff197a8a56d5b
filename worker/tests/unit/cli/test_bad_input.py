"""Every slip at the command line is one clear line and the right exit code."""

from __future__ import annotations

import json
import re
import sys
import uuid
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orbiter.cli import main
from orbiter.cli.agent_file import AgentFileError, read_agent
from orbiter.cli.render import task_json
from orbiter.cli.worker import worker_json
from orbiter.distributed.broker.worker_health import WorkerHealth
from orbiter.distributed.models import TaskResult

URL = "redis://127.0.0.1:1"
AGENT = '{"name": "a", "model": "test"}'


def invoke(*arguments: str, stdin: str = "", **env: str) -> Result:
    nothing = dict.fromkeys(("ORBITER_REDIS_URL", "ORBITER_CONCURRENCY", "ORBITER_QUEUE", "ORBITER_CONFIG"))
    return CliRunner(env=nothing | env).invoke(main, list(arguments), input=stdin, prog_name="orbiter")


def one_line(result: Result) -> str:
    (line,) = result.stderr.splitlines()
    assert result.stdout == ""
    return line


@pytest.mark.guide("Environment Variables", "`ORBITER_REDIS_URL`, for the other commands and for clients")
@pytest.mark.parametrize(
    "command",
    [
        ("start", "worker"),
        ("worker", "list"),
        ("worker", "drain", "x"),
        ("worker", "quiet", "x"),
        ("worker", "resume", "x"),
        ("task", "list"),
        ("task", "status", "x"),
        ("task", "cancel", "x"),
        ("task", "events", "x"),
        ("task", "retry", "x"),
        ("task", "dead", "list"),
        ("task", "dead", "show", "x"),
        ("task", "dead", "retry", "x"),
        ("task", "dead", "drop", "x"),
        ("queue", "info"),
    ],
)
def test_without_a_redis_url_every_command_says_how_to_give_one(command: tuple[str, ...]) -> None:
    result = invoke(*command)
    assert one_line(result) == "Error: --redis-url required or set ORBITER_REDIS_URL environment variable."
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("start", "worker", "--redis-url", URL, "--concurrency", "0"), "--concurrency"),
        (("start", "worker", "--redis-url", URL, "--concurrency", "four"), "--concurrency"),
        (("start", "worker", "--redis-url", URL, "--heartbeat-ttl", "0"), "--heartbeat-ttl"),
        (("start", "worker", "--redis-url", URL, "--drain-timeout", "nan"), "drain_timeout"),
        (("start", "worker", "--redis-url", URL, "--worker-id", "a b"), "worker_id"),
        (("start", "worker", "--redis-url", URL, "--executor", "magic"), "--executor"),
        (("start", "worker", "--redis-url", URL, "--isolation", "jail"), "--isolation"),
        (("start", "worker", "--redis-url", URL, "--processes", "2"), "(--concurrency)"),
        (("start", "worker", "--redis-url", URL, "--processes", "65"), "--processes"),
        (("start", "worker", "--redis-url", URL, "--max-rss-per-process", "12X"), "such as 400M or 2G"),
        (("start", "worker", "--redis-url", URL, "--max-rss-per-process", "-1"), "--max-rss-per-process"),
        (("start", "worker", "--redis-url", URL, "--stall-timeout", "inf"), "stall_timeout"),
        (("start", "worker", "--redis-url", URL, "--colour"), "--colour"),
        (("start", "worker", "--redis-url", "http://host"), "redis://"),
        (("worker", "list", "--redis-url", "redis://host:port"), "--redis-url"),
        (("task", "list", "--redis-url", URL, "--limit", "0"), "--limit"),
        (("task", "status", "--redis-url", URL), "TASK_ID"),
        (("worker", "drain", "--redis-url", URL), "give either the ids of workers or --all"),
        (("worker", "quiet", "--redis-url", URL, "w1", "--all"), "give either the ids of workers or --all"),
        (("worker", "resume", "--redis-url", URL, "w1", "--queue", "q"), "--queue goes with --all"),
        (("worker", "drain", "--redis-url", URL, "w1", "--timeout", "-1"), "--timeout"),
        (("task", "dead", "retry", "--redis-url", URL), "give either ids of dead letters or --all"),
        (("task", "dead", "drop", "--redis-url", URL, "x", "--all"), "give either ids of dead letters or --all"),
        (("task", "retry", "--redis-url", URL), "TASK_ID"),
        (("start", "worker", "--redis-url", URL, "--allow-import", "my-app"), "'my-app' is no module prefix"),
        (("task", "list", "--redis-url", URL, "--limit", "1.5"), "'1.5' is not a whole number."),
        (("task", "submit", "x", "--redis-url", URL, "--timeout", "5m"), "'5m' is not a number."),
        (("tasks", "list"), "'tasks'. Did you mean 'task'? See 'orbiter --help'."),
        (("taks", "list"), "'taks'. Did you mean 'task'? See 'orbiter --help'."),
        (("task", "staus"), "'staus'. Did you mean 'status'? See 'orbiter task --help'."),
        (("--json", "task", "list"), "--json goes behind the whole command, as in 'orbiter task list --json'."),
        (
            ("task", "--queue", "q", "list"),
            "--queue goes behind the whole command, as in",
        ),
        (("task", "dance"), "dance"),
        (("dance",), "dance"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_names_the_culprit(arguments: tuple[str, ...], named: str) -> None:
    result = invoke(*arguments)
    line = one_line(result)
    assert line.startswith("Error: ")
    assert named in line
    assert result.exit_code == 2


def test_a_wrong_variable_is_named_too() -> None:
    result = invoke("start", "worker", "--redis-url", URL, ORBITER_CONCURRENCY="many")
    assert "ORBITER_CONCURRENCY" in one_line(result)
    assert result.exit_code == 2


@pytest.mark.parametrize(
    "command", [("task", "submit", "x", "--model", "test"), ("dashboard",), ("task", "events", "x")]
)
def test_a_wrong_limit_of_payloads_is_one_line_that_names_its_variable(command: tuple[str, ...]) -> None:
    result = invoke(*command, "--redis-url", URL, ORBITER_MAX_PAYLOAD_BYTES="1MB")
    assert "ORBITER_MAX_PAYLOAD_BYTES: '1MB' is not a number of bytes; write 1000 or more" in one_line(result)
    assert result.exit_code == 2


def test_no_error_shows_the_password() -> None:
    for url in ("http://u:hunter2@host", "redis://u:hunter2@host:port", "redis://u:hunter2@127.0.0.1:1"):
        result = invoke("worker", "list", "--redis-url", url)
        assert result.exit_code in {1, 2}
        assert "hunter2" not in result.output


def test_an_unreachable_redis_is_one_line_and_exit_1() -> None:
    result = invoke("worker", "list", "--redis-url", URL)
    assert one_line(result).startswith("Error: Cannot reach Redis at redis://127.0.0.1:1/***: ")
    assert result.exit_code == 1


@pytest.mark.parametrize("command", ["task", "worker"])
def test_an_unknown_column_lists_the_known_ones(command: str) -> None:
    result = invoke(command, "list", "--redis-url", URL, "--columns", "id,colour")
    assert "'colour' is no column; the columns are id, status," in one_line(result)
    assert result.exit_code == 2


def test_an_unknown_status_lists_the_known_ones() -> None:
    result = invoke("task", "list", "--redis-url", URL, "--status", "done")
    assert one_line(result) == (
        "Invalid status: done. Valid values: pending, running, completed, failed, cancelled, retrying, unreadable"
    )
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON: line 1 column 2"),
        ("[]", "must be a JSON object"),
        ('{"name": "a", "temperature": NaN}', "NaN"),
        ("{}", "agent_config.name: Field required"),
        ('{"name": "a", "max_steps": 0}', "agent_config.max_steps: Input should be greater than or equal to 1"),
        ('{"name": "a", "tools": "os.system"}', "agent_config.tools: "),
        ('{"name": "a", "handoffs": [{}]}', "agent_config.handoffs.0.name: "),
        ('{"agents": []}', "agent_config.agents: "),
        ('{"agents": [{"name": "a"}], "mode": "mob"}', "agent_config.mode: "),
        ('{"agents": [{"name": "a"}], "flow": "a >> b"}', "agent_config.flow: "),
        ('{"name": "a"}', "agent_config.model: Field required"),
        (
            '{"name": "a", "model": "test", "handoffs": [{"name": "b"}]}',
            "agent_config.handoffs.0.model: Field required",
        ),
        ('{"agents": [{"name": "a"}]}', "agent_config.agents.0.model: Field required"),
        ('{"name": "a", "model": "test", "tool": ["m.f"]}', "agent_config.tool: unknown key; did you mean tools?"),
        ('{"name": "a", "model": "test", "xyzzy": 1}', "agent_config.xyzzy: unknown key; Known are name, model,"),
        ('{"nane": "a", "model": "test"}', "agent_config.nane: unknown key; did you mean name?"),
        (
            '{"agents": [{"name": "a", "model": "test", "Tools": []}]}',
            "agents.0.Tools: unknown key; did you mean tools?",
        ),
        ('{"agents": [], "flows": ""}', "agent_config.flows: unknown key; did you mean flow?"),
        ('{"runtime": "callable", "targets": "m:f"}', "agent_config.targets: unknown key; did you mean target?"),
        ('{"runtime": "callable"}', "agent_config.target: Field required"),
        ('{"runtime": 1}', "agent_config.runtime: "),
    ],
)
def test_a_wrong_agent_file_names_file_field_and_rule(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.json"
    file.write_text(text)
    result = invoke("task", "submit", "hi", "--redis-url", URL, "--agent", str(file))
    line = one_line(result)
    assert str(file) in line
    assert said in line
    assert result.exit_code == 2


def test_a_missing_agent_file_is_named() -> None:
    result = invoke("task", "submit", "hi", "--redis-url", URL, "--agent", "nowhere.json")
    assert "nowhere.json: No such file or directory" in one_line(result)
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hello.py", "hello.py: is Python, not JSON; name the agent in it: hello:NAME"),
        ("./hello.py", "./hello.py: is Python, not JSON; name the agent in it: hello:NAME"),
        ("hello.py:AGENT", "hello.py:AGENT: leave out the .py: hello:AGENT"),
        ("./hello.py:AGENT", "./hello.py:AGENT: No such file or directory; an agent in a module is named hello:AGENT"),
        ("hello", "hello: No such file or directory; an agent in a module is named hello:NAME"),
        ("hello:", "hello:: No such file or directory; an agent in a module is named hello:NAME"),
        ("hello.AGENT", "hello.AGENT: No such file or directory; an agent in a module is named hello:AGENT"),
        ("agent.json", "agent.json: No such file or directory"),
        ("a/agent", "a/agent: No such file or directory"),
    ],
)
def test_an_agent_in_a_module_that_is_named_otherwise_is_answered_with_its_name(
    source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello.py").write_text("AGENT = {}\n")
    with pytest.raises(AgentFileError) as caught:
        read_agent(source)
    assert str(caught.value) == said


def test_an_agent_of_nothing_is_said_to_be_empty() -> None:
    result = invoke("task", "submit", "x", "--redis-url", URL, "--agent", "-", stdin="\n")
    assert "standard input: is empty; must be a JSON object" in one_line(result)


def test_a_wrong_agent_on_standard_input_is_named_so() -> None:
    result = invoke("task", "submit", "hi", "--redis-url", URL, "--agent", "-", stdin="nonsense")
    assert "standard input: not JSON" in one_line(result)
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--count", "0"), "--count"),
        (("--count", "2", "--task-id", "x"), "--task-id is for one task"),
        (("--exist-ok",), "--exist-ok goes with --task-id"),
        (("--count", "2", "--stream"), "--stream is for one task"),
        (("--timeout", "0"), "--timeout"),
        (("--timeout", "inf"), "timeout_seconds"),
        (("--metadata", "novalue"), "KEY=VALUE"),
        (("--not-before", "2026-02-17T10:30:00"), "names no zone"),
        (("--not-before", "soon"), "--not-before"),
        (("--max-retries", "-1"), "--max-retries"),
        (("--task-id", ""), "task_id"),
        (("--model", "test"), "either --agent FILE or --model NAME"),
        (("--instructions", "Be short."), "--instructions goes with --model"),
    ],
)
def test_wrong_submit_options(options: tuple[str, ...], said: str) -> None:
    result = invoke("task", "submit", "hi", "--redis-url", URL, "--agent", "-", *options, stdin=AGENT)
    assert said in one_line(result)
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [((), "either --agent FILE or --model NAME"), (("--model", ""), "model: String should have at least 1 character")],
)
def test_a_task_needs_an_agent_or_a_model(options: tuple[str, ...], said: str) -> None:
    result = invoke("task", "submit", "hi", "--redis-url", URL, *options)
    assert said in one_line(result)
    assert result.exit_code == 2


MODULE = """
import datetime
AGENT = {"name": "x", "model": "test"}
TYPO = {"name": "x", "modle": "test"}
DATED = {"name": "x", "model": "test", "instructions": datetime.date(2026, 2, 17)}
class Described:
    def to_dict(self): return AGENT
ITSELF = Described()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working directory, one of its own for each test: Python imports each once."""
    name = f"agents_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("AGENT = {")
    (tmp_path / f"{name}_raises.py").write_text("raise KeyError('absent')")
    (tmp_path / f"{name}_ends.py").write_text("import sys; sys.path.clear(); sys.exit(3)")
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("name", ["AGENT", "ITSELF"])
def test_an_agent_of_a_module_is_read(module: str, name: str) -> None:
    before = list(sys.path)
    assert read_agent(f"{module}:{name}") == {"name": "x", "model": "test"}
    assert sys.path == before


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (":AGNT", "did you mean AGENT?"),
        (":datetime", "must be a dict or have to_dict(), not module"),
        (":TYPO", "agent_config.modle: unknown key; did you mean model?"),
        (":DATED", "date is not JSON"),
        ("_broken:AGENT", "SyntaxError: '{' was never closed"),
        ("_raises:AGENT", "KeyError: 'absent'"),
        ("_ends:AGENT", "SystemExit: 3"),
        ("_absent:AGENT", "No module named"),
    ],
)
def test_a_module_without_such_an_agent_is_refused(module: str, source: str, said: str) -> None:
    assert said in _refusal(f"{module}{source}")


def test_a_file_goes_before_a_module_of_that_name(module: str) -> None:
    Path(f"{module}:AGENT").write_text(json.dumps({"name": "of a file", "model": "test"}))
    assert read_agent(f"{module}:AGENT")["name"] == "of a file"


def _refusal(source: Path | str) -> str:
    try:
        read_agent(str(source))
    except AgentFileError as error:
        return str(error)
    return ""


def test_an_unknown_executor_is_refused() -> None:
    result = invoke("start", "worker", "--redis-url", "redis://localhost", "--executor", "ray")
    assert result.exit_code == 2
    assert "'ray' is not one of 'local', 'temporal'" in result.stderr


@given(st.binary(max_size=200))
def test_any_file_is_an_agent_or_a_named_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("agent") / "agent.json"
    file.write_bytes(content)
    refusal = _refusal(file)
    assert not refusal or refusal.startswith(f"{file}: ")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(["name", "agents", "tools", "handoffs", "flow", "mode", "runtime", "target", "max_steps"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first example imports pydantic-ai
@given(st.dictionaries(_KEYS, _JSON))
def test_any_object_is_an_agent_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, object]
) -> None:
    file = tmp_path_factory.mktemp("agent") / "agent.json"
    file.write_text(json.dumps(config))
    refusal = _refusal(file)
    assert not refusal or refusal.startswith(f"{file}: agent_config.")


def test_help_of_every_command_needs_neither_redis_nor_heavy_imports() -> None:
    groups = ((), ("task",), ("task", "dead"), ("worker",), ("queue",), ("config",))
    commands = (("start", "worker"), ("worker", "list"), ("worker", "drain"), ("task", "submit"), ("queue", "info"))
    for command in groups + commands:
        result = invoke(*command, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: orbiter")


def test_every_command_that_asks_redis_takes_queue_redis_url_and_json() -> None:
    asking = [command for command in _leaves(main, ()) if command[0] in {"task", "worker", "queue"}]
    assert len(asking) == 15
    for command in asking:
        text = invoke(*command, "--help").stdout
        for option in ("--queue", "--redis-url", "--json"):
            assert option in text, command


def _leaves(group: click.Group, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found += _leaves(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


def test_every_command_has_a_row_in_the_docs() -> None:
    text = (Path(__file__).parents[4] / "docs/command.md").read_text()
    for command in _leaves(main, ()):
        assert f"\n| `orbiter {' '.join(command)}" in text, command


@pytest.mark.parametrize(
    ("head", "keys"),
    [
        ("task", set(task_json(TaskResult()))),
        ("worker", set(worker_json(WorkerHealth("w1", "running")))),
    ],
)
def test_the_docs_name_every_key_of_the_json(head: str, keys: set[str]) -> None:
    text = (Path(__file__).parents[4] / "docs/command-json.md").read_text()
    (table,) = re.findall(rf"^\| key of a {head} \|.*\n\| --- .*\n((?:\|.*\n)+)", text, re.MULTILINE)
    named = [key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(keys)
