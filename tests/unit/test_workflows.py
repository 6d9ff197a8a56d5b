""".github/workflows: what runs there is what is here."""

import itertools
import json
import re
import subprocess
import tomllib

import pytest
import yaml
from terminal import CHECKOUT, commands, section

FOLDER = CHECKOUT / ".github/workflows"
JOBS = {
    f"{path.stem}/{name}": job
    for path in sorted(FOLDER.glob("*.yml"))
    for name, job in yaml.safe_load(path.read_text())["jobs"].items()
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_runs_targets_and_files_that_exist(name):
    makefile = (CHECKOUT / "Makefile").read_text()
    lines = [step["run"] for step in JOBS[name]["steps"] if "run" in step]
    assert lines
    targets = [word for line in lines if line.startswith("make ") for word in re.findall(r" ([a-z-]+)(?= |$)", line)]
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
    assert [path for line in lines for path in re.findall(r"-r (\S+)", line) if not (CHECKOUT / path).is_file()] == []
    assert JOBS[name]["timeout-minutes"] <= 120


def matrix(name):
    """Return what a job runs with."""
    return JOBS[name]["strategy"]["matrix"]


def lines(name):
    """Return what a job runs."""
    return [line for step in JOBS[name]["steps"] for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("name", ["test/molecule", "nightly/molecule"])
def test_every_scenario_is_in_the_matrix(name):
    scenarios = sorted(path.parent.name for path in (CHECKOUT / "molecule").glob("*/molecule.yml"))
    assert matrix(name)["scenario"] == scenarios


def test_integration_tests_run_on_every_server_that_is_supported():
    images = [image.removesuffix("-bookworm") for image in matrix("test/integration")["server"]]
    assert {"redis:7.0", "redis:7.2"} <= set(images)
    assert [image for image in images if re.match(r"redis:8\.", image)]
    assert [image for image in images if image.startswith("valkey/")]
    (before, after) = lines("test/integration")
    assert before.split()[1:] == ["tools/server_of_image.sh", "${{", "matrix.server", "}}", "/usr/local/bin"]
    assert after == "make test-integration"


def test_every_part_of_the_nightly_tests_runs_each_night():
    recipe = (CHECKOUT / "Makefile").read_text().partition("\ntest-nightly:")[2].partition("\n.PHONY")[0]
    ways = re.findall(r"""\x22(--[^\x22]+)\x22""", recipe.partition("done")[0])
    assert ways
    assert matrix("nightly/chaos")["how"] == ["", *ways]
    night = [line for name in JOBS if name.startswith("nightly/") for line in lines(name)]
    for part in ("make mutations", "chaos.machine", "tests/unit -m nightly", "tests/integration -m nightly", "test-vm"):
        assert part.removeprefix("make ") in recipe
        assert [line for line in night if part in line], part


def test_a_tag_makes_what_make_release_makes_and_an_image_for_both_machines():
    assert 'make dist VERSION="$GITHUB_REF_NAME" KEY="$KEY"' in lines("release/release")
    assert lines("release/image")[0] == 'make image TAG="$GITHUB_REF_NAME"'
    assert [row["machine"] for row in matrix("release/image")["include"]] == ["amd64", "arm64"]
    assert [line for line in lines("release/release") if "--draft" in line and "--notes-file NOTES.md" in line]


@pytest.mark.parametrize(
    ("words", "base", "tag"),
    [((), "python:3.12-slim", "latest"), (("BASE=mine:1", "TAG=1.0.0"), "mine:1", "1.0.0")],
)
def test_make_image_hands_base_and_tag_on_as_ansible_reads_them(words, base, tag):
    recipe = subprocess.run(
        ["make", "--dry-run", "image", *words], cwd=CHECKOUT, text=True, capture_output=True, check=True
    ).stdout
    # As the shell takes the line apart: a backslash within single quotes stays.
    arguments = recipe.partition("ansible-playbook ")[2]
    said = subprocess.run(
        ["bash", "-euc", f"printf '%s\\0' {arguments}"], text=True, capture_output=True, check=True
    ).stdout.split("\0")
    given = [value for option, value in itertools.pairwise(said) if option == "--extra-vars"]
    assert "orbiter_worker_hosts=image" in given
    (settings,) = [json.loads(value) for value in given if value.startswith("{")]
    assert settings == {"image_base": base, "image_extra_tags": [tag]}


def test_hooks_before_a_commit_run_what_lint_runs():
    lint = (CHECKOUT / "Makefile").read_text().partition("\nlint:")[2].partition("\n.PHONY")[0]
    (local,) = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"]
    ids = [hook["id"].removesuffix("-format") for hook in local["hooks"]]
    assert [name for name in ids if name not in lint] == []
    # Those that look at files of one kind; the others look at the whole.
    assert {"ruff", "mypy", "shellcheck", "actionlint", "yamllint"} <= set(ids)
    mypy = next(hook["entry"] for hook in local["hooks"] if hook["id"] == "mypy")
    assert re.search(r"mypy ([a-z ]+)", mypy)[1] == re.search(r"mypy ([a-z ]+)", lint)[1]


def test_unit_tests_run_by_the_words_of_contributing_on_every_python_that_is_named():
    steps = [step["run"] for step in JOBS["test/unit"]["steps"] if "run" in step]
    assert steps[:3] == commands(section("CONTRIBUTING.md", "From a clone to a green test"))[1:4]
    project = tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["project"]
    named = set(re.findall(r":: (3\.\d+)", " ".join(project["classifiers"])))
    assert named <= set(JOBS["test/unit"]["strategy"]["matrix"]["python"])
