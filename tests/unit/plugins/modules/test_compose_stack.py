"""compose_stack and compose_stack_info, on a host where nothing is deployed."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_docker(monkeypatch, tmp_path):
    """Have no command docker."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("check", [False, True])
def test_nothing_deployed_is_said_with_the_remedy(module, tmp_path, check):
    answer = module("compose_stack", check=check, state="applied", replicas=2, directory=str(tmp_path))
    assert answer["failed"]
    assert "Nothing is deployed here" in answer["msg"]
    assert "orbiter.fleet.site" in answer["msg"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_docker")
def test_check_of_a_host_that_will_get_docker_says_that_something_will_change(module, tmp_path):
    told = {"image": "orbiter-worker:1", "settings": "new", "replicas": 2, "directory": str(tmp_path)}
    assert module("compose_stack", check=True, state="applied", **told)["changed"]


@pytest.mark.parametrize("check", [False, True])
def test_what_is_not_there_is_removed_already(module, tmp_path, check):
    assert module("compose_stack", check=check, state="removed", directory=str(tmp_path))["changed"] is False


@pytest.mark.usefixtures("no_docker")
def test_missing_docker_is_told_and_no_error(module, tmp_path):
    answer = module("compose_stack_info", image="orbiter-worker:1", directory=str(tmp_path))
    assert answer["trouble"] == "the command docker is not installed"
    assert (answer["docker"], answer["image"], answer["used"]) == ("", False, False)


def test_status_of_a_host_where_nothing_is_deployed_is_empty(module, tmp_path):
    found = module("compose_stack_info", status=True, directory=str(tmp_path))
    assert (found["release"], found["instances"], found["queue"], found["trouble"]) == ("", [], None, "")


@pytest.mark.usefixtures("no_docker")
def test_status_of_a_stack_whose_docker_is_away_is_the_trouble(module, tmp_path):
    (tmp_path / "docker-compose.yml").touch()
    found = module("compose_stack_info", status=True, directory=str(tmp_path))
    assert (found["instances"], found["trouble"]) == ([], "the command docker is not installed")


@pytest.mark.parametrize(("pick", "said"), [("current", "Nothing is deployed"), ("previous", "Nothing is deployed")])
def test_image_of_nothing_is_refused(module, tmp_path, pick, said):
    answer = module("compose_stack_info", pick=pick, directory=str(tmp_path))
    assert answer["failed"]
    assert said in answer["msg"]


def test_release_that_was_never_here_is_refused_with_those_that_are(module, tmp_path):
    answer = module("compose_stack_info", pick="previous", release="9", directory=str(tmp_path))
    assert answer["msg"] == "Release 9 is not on this host; these are: none."
