"""README.md answers a stranger's questions in their order, and says of versions what the other files say."""

import re
import runpy
import tomllib

import yaml
from terminal import CHECKOUT, section

UBUNTU = runpy.run_path(str(CHECKOUT / "plugins/filter/unfit_host.py"))["UBUNTU"]
README = (CHECKOUT / "README.md").read_text()
ORDER = [
    "Who it is for, and what others do not do",
    "Python in 60 seconds",
    "A fleet in a box",
    "Use it",
    "Status and compatibility",
    "More",
]


def versions(row):
    """Return the versions in a row of the table of compatibility."""
    table = section("README.md", "Status and compatibility")
    (cell,) = re.findall(rf"^\| {re.escape(row)} \| (.*) \|$", table, re.MULTILINE)
    return re.findall(r"\d+(?:\.\d+)?", re.sub(r"\]\([^)]*\)", "]", cell))


def workflow(name):
    """Return the jobs of a public workflow."""
    return yaml.safe_load((CHECKOUT / f".github/workflows/{name}.yml").read_text())["jobs"]


def test_sections_come_in_the_order_of_a_strangers_questions():
    assert re.findall(r"^## (.+)$", README, re.MULTILINE) == ORDER


def test_each_thing_that_others_do_not_do_has_a_link_to_its_proof():
    points = re.split(r"^- ", section("README.md", ORDER[0]), flags=re.MULTILINE)[1:]
    assert len(points) == 5
    for point in points:
        proofs = re.findall(r"\]\(([^)#]+)", point)
        assert proofs, point
        assert [proof for proof in proofs if not (CHECKOUT / proof).exists()] == []


def test_pythons_are_those_of_the_package_and_of_its_unit_tests():
    project = tomllib.loads((CHECKOUT / "worker/pyproject.toml").read_text())["project"]
    named = re.findall(r":: (3\.\d+)", " ".join(project["classifiers"]))
    tried = workflow("test")["unit"]["strategy"]["matrix"]["python"]
    assert versions("Python") == [named[0], named[-1], tried[-1]]
    assert project["requires-python"] == f">={named[0]}"


def test_servers_are_those_that_tests_run_on():
    images = workflow("test")["integration"]["strategy"]["matrix"]["server"]
    tried = {"Redis": {"8.0"}, "Valkey": set()}  # 8.0: of the test hosts with Debian 13
    for image in images:
        kind, version = re.fullmatch(r"(?:valkey/)?(redis|valkey):(\d+\.\d+).*", image).groups()
        tried[kind.title()].add(version)
    assert set(versions("Redis")) == tried["Redis"]
    assert set(versions("Valkey")) == tried["Valkey"]


def test_hosts_and_ansible_are_those_that_are_asked_for():
    assert f"{UBUNTU[0]}.{UBUNTU[1]:02}" in versions("hosts")
    needed = yaml.safe_load((CHECKOUT / "meta/runtime.yml").read_text())["requires_ansible"]
    pins = (CHECKOUT / "requirements/controller.txt").read_text()
    pinned = re.search(r"^ansible-core==(\d+\.\d+)", pins, re.MULTILINE)
    assert versions("ansible-core") == [pinned[1], re.search(r"\d+\.\d+", needed)[0]]
