"""Settings: flag before environment before ``orbiter.toml`` before default, and every slip named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orbiter.cli import main, settings_file
from orbiter.distributed.settings import WorkerSettings

NOBODY = "redis://127.0.0.1:1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory and an empty current one."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no worker where a test only asks how its settings are read: this process goes on."""
    for name in ("signals.hold", "_hide_from_tasks"):
        monkeypatch.setattr(f"orbiter.cli.start.{name}", lambda: None)


def invoke(*arguments: str, **env: str) -> Result:
    nothing = dict.fromkeys((settings_file.FILE_VARIABLE, *map(settings_file.variable, settings_file.defaults())))
    return CliRunner(env=nothing | env).invoke(main, list(arguments), prog_name="orbiter")


def write(text: str, path: str = "orbiter.toml") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def shown(**env: str) -> dict[str, dict[str, object]]:
    result = invoke("config", "show", "--json", **env)
    assert result.exit_code == 0, result.output
    settings: dict[str, dict[str, object]] = json.loads(result.stdout)["settings"]
    return settings


def test_every_setting_is_listed_with_its_default() -> None:
    settings = shown()
    assert list(settings) == ["redis_url", *WorkerSettings.model_fields, "log_format", "log_level"]
    assert settings["concurrency"] == {"value": 1, "source": "default"}
    assert settings["worker_id"] == {"value": None, "source": "default (generated)"}
    assert settings["redis_url"] == {"value": None, "source": "default"}


def test_environment_wins_over_the_file_and_the_file_over_the_default() -> None:
    write('concurrency = 4\nheartbeat_ttl = 9\nallow_import = ["a", "b.c"]\nlog_level = "DEBUG"\ndrain_timeout = 5\n')
    settings = shown(ORBITER_CONCURRENCY="8", ORBITER_QUEUE="")
    assert settings["concurrency"] == {"value": 8, "source": "environment (ORBITER_CONCURRENCY)"}
    assert settings["heartbeat_ttl"] == {"value": 9, "source": "file (orbiter.toml)"}
    assert settings["allow_import"]["value"] == ["a", "b.c"]
    assert settings["log_level"]["value"] == "debug"
    assert settings["drain_timeout"]["value"] == 5.0
    assert settings["queue"]["source"] == "default", "an empty variable is no setting"


def test_empty_variable_of_a_list_is_an_empty_list_and_wins_over_the_file() -> None:
    write(f'redis_url = "{NOBODY}"\nallow_import = ["*"]\nallow_models = ["*"]\nconnect_timeout = 0\n')
    assert shown()["allow_import"]["value"] == ["*"]
    settings = shown(ORBITER_ALLOW_IMPORT="", ORBITER_ALLOW_MODELS=" ")
    assert settings["allow_import"] == {"value": [], "source": "environment (ORBITER_ALLOW_IMPORT)"}
    assert settings["allow_models"] == {"value": [], "source": "environment (ORBITER_ALLOW_MODELS)"}


@pytest.mark.parametrize(
    ("arguments", "env", "lists"),
    [
        ((), {}, (("file",), ("default",))),
        ((), {"ORBITER_ALLOW_IMPORT": "", "ORBITER_ALLOW_MODELS": ""}, ((), ())),
        ((), {"ORBITER_ALLOW_IMPORT": "a,b", "ORBITER_ALLOW_MODELS": "test"}, (("a", "b"), ("test",))),
        (("--allow-import", "c", "--allow-models", "x:*"), {"ORBITER_ALLOW_IMPORT": ""}, (("c",), ("x:*",))),
    ],
)
def test_a_worker_takes_lists_from_flag_variable_or_file(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], env: dict[str, str], lists: tuple[tuple[str, ...], ...]
) -> None:
    write(f'redis_url = "{NOBODY}"\nallow_import = ["file"]\n')
    found: list[WorkerSettings] = []
    monkeypatch.setattr("orbiter.cli.start._print_banner", lambda _, settings: found.append(settings))
    invoke("start", "worker", "--connect-timeout", "0", *arguments, **env)
    assert [(settings.allow_import, settings.allow_models) for settings in found] == [lists]


@pytest.mark.parametrize("pattern", ["http://x/y?z", "openai:gpt 5", "[a-z]", "-x"])
def test_pattern_that_is_none_is_named_with_its_rule(pattern: str) -> None:
    for result in (
        invoke("start", "worker", "--redis-url", NOBODY, f"--allow-models={pattern}"),
        invoke("config", "show", ORBITER_ALLOW_MODELS=pattern),
    ):
        assert result.exit_code == 2
        assert pattern in result.stderr
        assert "pattern for models" in result.stderr


def test_the_queue_is_shown_with_the_namespace_in_force() -> None:
    write('namespace = "acme"\nqueue = "mail"\n')
    settings = shown()
    assert (settings["namespace"]["value"], settings["queue"]["value"]) == ("acme", "acme:mail")
    assert shown(ORBITER_NAMESPACE="other")["queue"]["value"] == "other:mail"
    write('namespace = "acme"\n')
    assert shown()["queue"]["value"] == "acme:tasks"


def test_size_may_have_a_unit_wherever_it_comes_from() -> None:
    assert shown(ORBITER_MAX_RSS_PER_PROCESS="2G")["max_rss_per_process"]["value"] == 2_000_000_000
    write(f'redis_url = "{NOBODY}"\nmax_rss_per_process = "512MiB"\nprocesses = 4\nconnect_timeout = 0\n')
    settings = shown()
    assert (settings["max_rss_per_process"]["value"], settings["processes"]["value"]) == (536_870_912, 4)
    for concurrency, said in (("3", "--processes"), ("4", "cannot reach Redis")):
        started = invoke("start", "worker", "--concurrency", concurrency, "--max-rss-per-process", "1G")
        assert said in started.stderr


def test_the_url_s_secrets_are_masked_wherever_it_comes_from() -> None:
    url = "redis://me:hunter2@db.example:6380/3"
    assert shown(ORBITER_REDIS_URL=url)["redis_url"]["value"] == "redis://db.example:6380/***"
    write(f'redis_url = "{url}"')
    assert shown()["redis_url"] == {"value": "redis://db.example:6380/***", "source": "file (orbiter.toml)"}
    table = invoke("config", "show").stdout
    assert "redis://db.example:6380/***" in table
    assert "hunter2" not in table


def test_settings_file_applies_unless_variable_or_flag_overrides_it() -> None:
    write('redis_url = "redis://127.0.0.1:1"')
    for command in (("worker", "list"), ("task", "dead", "list"), ("task", "cancel", "x"), ("queue", "info")):
        assert "redis://127.0.0.1:1/" in invoke(*command).stderr
        assert "redis://127.0.0.1:2/" in invoke(*command, ORBITER_REDIS_URL="redis://127.0.0.1:2").stderr
    flag = ("--redis-url", "redis://127.0.0.1:3")
    assert "redis://127.0.0.1:3/" in invoke("worker", "list", *flag, ORBITER_REDIS_URL="redis://127.0.0.1:2").stderr


def test_a_worker_takes_the_file_s_settings() -> None:
    write(f'redis_url = "{NOBODY}"\nconnect_timeout = 0\nconcurrency = 7\nworker_id = "from-file"\nqueue = "q1"')
    banner = invoke("start", "worker").stdout
    assert "  Worker ID:   from-file" in banner
    assert "  Queue:       q1" in banner
    assert "  Concurrency: 7" in banner
    assert "  Concurrency: 9" in invoke("start", "worker", ORBITER_CONCURRENCY="9").stdout
    assert "  Concurrency: 2" in invoke("start", "worker", "--concurrency", "2", ORBITER_CONCURRENCY="9").stdout


def test_the_first_place_that_has_a_file_is_the_only_one(home: Path) -> None:
    write("concurrency = 3", str(home / ".config/orbiter/orbiter.toml"))
    assert shown()["concurrency"]["value"] == 3
    write("heartbeat_ttl = 5")
    assert shown()["concurrency"]["value"] == 1
    named = write("concurrency = 6", "elsewhere.toml")
    assert shown(ORBITER_CONFIG=str(named))["concurrency"] == {"value": 6, "source": "file (elsewhere.toml)"}
    assert json.loads(invoke("config", "show", "--json").stdout)["file"] == "orbiter.toml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("concurency = 4", "orbiter.toml: unknown key 'concurency'; the settings are redis_url, concurrency, "),
        ("[worker]\nconcurrency = 4", "orbiter.toml: unknown key 'worker'"),
        ('concurrency = "4"', "orbiter.toml: concurrency: Input should be a valid integer"),
        ("concurrency = true", "orbiter.toml: concurrency: Input should be a valid integer"),
        ("concurrency = 0", "orbiter.toml: concurrency: Input should be greater than or equal to 1"),
        ("drain_timeout = nan", "orbiter.toml: drain_timeout: Input should be "),
        ("allow_import = 3", "orbiter.toml: allow_import: Input should be a valid "),
        ("queue = 5", "orbiter.toml: queue: Input should be a valid string"),
        ("log_level = 3", "orbiter.toml: log_level: Input should be a valid string"),
        ('log_level = "loud"', "orbiter.toml: log_level: Input should be one of debug, info, warning, error"),
        ('redis_url = "http://u:hunter2@host"', "orbiter.toml: redis_url: Redis URL http://***: scheme must be "),
        ("concurrency = ", "orbiter.toml: not TOML: "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_file_key_and_rule(text: str, said: str) -> None:
    write(text)
    for command in (("config", "show"), ("task", "dead", "list")):
        result = invoke(*command)
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"Error: {said}")
        assert result.exit_code == 2
        assert "hunter2" not in line


def test_a_file_that_is_named_must_exist() -> None:
    result = invoke("config", "show", ORBITER_CONFIG="nowhere.toml")
    assert (result.exit_code, result.stderr) == (2, "Error: ORBITER_CONFIG names nowhere.toml, which does not exist.\n")


def test_a_wrong_variable_is_named_with_its_rule() -> None:
    result = invoke("config", "show", ORBITER_CONCURRENCY="many")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ORBITER_CONCURRENCY: Input should be a valid integer")


def test_help_version_and_completion_work_beside_a_wrong_file() -> None:
    write("nonsense")
    for command in (("--help",), ("--version",), ("worker", "list", "--help"), ("completion", "bash")):
        assert invoke(*command).exit_code == 0
