""".github/workflows: what runs there is what is here."""

import re
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


def test_every_scenario_is_in_the_matrix():
    scenarios = sorted(path.parent.name for path in (CHECKOUT / "molecule").glob("*/molecule.yml"))
    assert JOBS["test/molecule"]["strategy"]["matrix"]["scenario"] == scenarios


def test_unit_tests_run_by_the_words_of_contributing_on_every_python_that_is_named():
    steps = [step["run"] for step in JOBS["test/unit"]["steps"] if "run" in step]
    assert steps[:3] == commands(section("CONTRIBUTING.md", "From a clone to a green test"))[1:4]
    project = tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["project"]
    named = set(re.findall(r":: (3\.\d+)", " ".join(project["classifiers"])))
    assert named <= set(JOBS["test/unit"]["strategy"]["matrix"]["python"])
